//! The files named on the command line: finding and reading them, and `check`, which works offline.

use std::{
    collections::BTreeSet,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use store::{
    handle::Clock,
    model::{self, DomainName, InputError, Placed, Places, World},
};

use super::{
    failure::{Failure, Outcome},
    results::Warnings,
    show::{self, print},
    zones::{self, Origins},
};
use crate::{api::FileText, config::Config, out};

/// Files of one command, all together.
const MAX_FILES: usize = 10_000;
/// Extensions of documents in a folder.
const DOCUMENTS: &[&str] = &["yaml", "yml", "json"];
/// Extensions that `check` reads in a folder: documents, node configurations and zone files.
const CHECKED: &[&str] = &["yaml", "yml", "json", "toml", "zone"];

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|it| it == extension)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Wrong(format!("{}: {error}", path.display()))
}

/// The named files, and in named folders those with one of these extensions, in the order of their paths. A folder
/// without such a file is an error: it was named because of what is in it.
fn find(paths: &[PathBuf], endings: &[&str]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let before = found.len();
        collect(path, endings, &mut found)?;
        if found.len() == before {
            let endings: Vec<String> = endings.iter().map(|it| format!(".{it}")).collect();
            let text = format!(
                "{}: there is no file in this folder that ends in {}",
                path.display(),
                endings.join(", ")
            );
            return Err(Failure::Wrong(text));
        }
    }
    Ok(found)
}

fn collect(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        if !path.is_dir() {
            found.push(path);
        } else {
            let mut inside = Vec::new();
            for entry in std::fs::read_dir(&path).map_err(|error| unreadable(&path, &error))? {
                let entry = entry.map_err(|error| unreadable(&path, &error))?.path();
                if entry.is_dir() || endings.iter().any(|it| has_extension(&entry, it)) {
                    inside.push(entry);
                }
            }
            inside.sort_by(|a, b| b.cmp(a));
            waiting.extend(inside);
        }
        if found.len() > MAX_FILES {
            return Err(Failure::Wrong(format!("more than {MAX_FILES} files")));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<FileText, Failure> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|error| unreadable(path, &error))?;
        return Ok(FileText { name: "stdin".to_owned(), text });
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    Ok(FileText { text, name: path.display().to_string() })
}

/// The named documents, with the zone files that they name.
pub(super) fn documents(paths: &[PathBuf]) -> Result<(Vec<FileText>, Origins), Failure> {
    let files: Result<Vec<_>, _> = find(paths, DOCUMENTS)?.iter().map(|it| read(it)).collect();
    zones::expand(files?).map_err(|errors| {
        let summary = "nothing was sent".to_owned();
        Failure::InvalidInput { errors, summary }
    })
}

/// How much was checked, and what was found.
#[derive(Debug, Default)]
struct Checked {
    documents: usize,
    configurations: usize,
    zones: usize,
    errors: Vec<InputError>,
    warnings: Vec<InputError>,
}

/// Looks for errors in files of every kind.
pub(super) fn check(paths: &[PathBuf], json: bool) -> Outcome {
    let checked = check_paths(paths)?;
    if !checked.warnings.is_empty() {
        let text = match json {
            true => show::json_text(&Warnings { warnings: &checked.warnings })?,
            false => show::warnings(&checked.warnings).trim_end().to_owned(),
        };
        out::note(&text);
    }
    if json {
        show::json(&checked.errors)?;
    }
    if !checked.errors.is_empty() {
        return Err(Failure::InvalidInput { errors: checked.errors, summary: String::new() });
    }
    if json { Ok(()) } else { print(&summary(&checked)) }
}

fn summary(checked: &Checked) -> String {
    let kinds = [
        (checked.documents, "document"),
        (checked.configurations, "node configuration"),
        (checked.zones, "zone file"),
    ];
    let counted = |(count, noun): (usize, &str)| (count > 0).then(|| out::counted(count, noun));
    let errors = std::iter::once("no errors".to_owned());
    let warnings = counted((checked.warnings.len(), "warning"));
    let parts = kinds.into_iter().filter_map(counted).chain(errors).chain(warnings);
    format!("{}\n", parts.collect::<Vec<_>>().join(", "))
}

/// Checks the named files, and the files in named folders.
fn check_paths(paths: &[PathBuf]) -> Result<Checked, Failure> {
    let mut checked = Checked::default();
    let (mut texts, mut zone_files) = (Vec::new(), Vec::new());
    for path in find(paths, CHECKED)? {
        if has_extension(&path, "zone") {
            // Read as octets: zone files need not be UTF-8.
            zone_files.push(path);
        } else if is_misnamed(&path) {
            let problem = "this looks like a zone file, and its name does not say of which zone";
            checked.errors.push(zones::misnamed(&path.display().to_string(), problem));
        } else {
            texts.push(read(&path)?);
        }
    }
    let (configurations, texts): (Vec<_>, Vec<_>) =
        texts.into_iter().partition(|it| has_extension(Path::new(&it.name), "toml"));
    for file in configurations {
        checked.configurations += 1;
        match Config::parse(&file.name, &file.text) {
            Ok(config) => checked.warnings.extend(config.warnings),
            Err(errors) => checked.errors.extend(errors),
        }
    }
    // A zone file that a document names belongs to the document, which also says which zone it holds.
    let mut parts: BTreeSet<PathBuf> =
        zones::named_files(&texts).iter().filter_map(|it| it.canonicalize().ok()).collect();
    let filed = check_zone_files(&zone_files, &mut parts, &mut checked);
    checked.warnings.extend(unserved_files(paths, &filed, &parts));
    check_documents(texts, &filed, &mut checked);
    Ok(checked)
}

/// True for a file that holds a zone and whose name fits no kind of file that is checked.
fn is_misnamed(path: &Path) -> bool {
    let other = path.as_os_str() == "-" || CHECKED.iter().any(|it| has_extension(path, it));
    !other && std::fs::read(path).is_ok_and(|text| zones::looks_like_a_zone(&text))
}

/// Checks zone files that are named for their zone, and returns those that hold one. A file that one of them includes is a
/// part of that zone and need not be a zone by itself; it is added to `parts`.
fn check_zone_files(
    files: &[PathBuf],
    parts: &mut BTreeSet<PathBuf>,
    checked: &mut Checked,
) -> Vec<(String, DomainName)> {
    let (mut filed, mut failed) = (Vec::new(), Vec::new());
    for path in files {
        checked.zones += 1;
        let file = path.display().to_string();
        if path.canonicalize().is_ok_and(|it| parts.contains(&it)) {
            continue;
        }
        let (found, included) = zones::check(&file);
        parts.extend(included.iter().filter_map(|it| it.canonicalize().ok()));
        match found {
            Ok((origin, warnings)) => {
                filed.push((file, origin));
                checked.warnings.extend(warnings);
            }
            Err(errors) => failed.push((path, errors)),
        }
    }
    let own = |path: &Path| path.canonicalize().is_ok_and(|it| parts.contains(&it));
    checked.errors.extend(failed.into_iter().filter(|(path, _)| !own(path)).flat_map(|(_, it)| it));
    checked.warnings.extend(zones::duplicates(&filed));
    filed
}

/// Warns of the files that a node with one of these folders as its zones_dir would not serve.
fn unserved_files(
    paths: &[PathBuf],
    filed: &[(String, DomainName)],
    parts: &BTreeSet<PathBuf>,
) -> Vec<InputError> {
    const NAMED: usize = 10;
    let named: Vec<&PathBuf> = paths.iter().filter(|path| path.is_dir()).collect();
    let folders = filed.iter().filter_map(|(file, _)| Path::new(file).parent());
    let folders: BTreeSet<&Path> =
        folders.filter(|folder| named.iter().any(|path| folder.starts_with(path))).collect();
    let mut warnings = Vec::new();
    for folder in folders {
        let inside = std::fs::read_dir(folder).into_iter().flatten().filter_map(|it| Some(it.ok()?.path()));
        let is_unserved = |path: &PathBuf| {
            let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            let part = || path.canonicalize().is_ok_and(|it| parts.contains(&it));
            !hidden && path.is_file() && !CHECKED.iter().any(|it| has_extension(path, it)) && !part()
        };
        let name = |path: PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut names: Vec<String> = inside.filter(is_unserved).map(name).collect();
        names.sort();
        let count = names.len();
        if count > 0 {
            names.truncate(NAMED);
            let more = if count > NAMED { ", …" } else { "" };
            let names = names.join(", ");
            let problem = format!(
                "as zones_dir it would not serve {count} of its files, whose names do not end in .zone: {names}{more}"
            );
            warnings.push(zones::file_error(&folder.display().to_string(), problem, "ORIGIN.zone"));
        }
    }
    warnings
}

/// Checks documents; `filed` are the zone files beside them, by name and zone.
fn check_documents(texts: Vec<FileText>, filed: &[(String, DomainName)], checked: &mut Checked) {
    let (files, origins) = match zones::expand(texts) {
        Ok(expanded) => expanded,
        Err(found) => {
            checked.errors.extend(found);
            return;
        }
    };
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    for file in &files {
        match model::parse(&file.name, &file.text) {
            Ok(parsed) if parsed.is_empty() => errors.push(file.without_documents()),
            Ok(parsed) => documents.extend(parsed),
            Err(found) => errors.extend(found),
        }
    }
    checked.documents = documents.len();
    let now = Clock::default().now();
    let places = Places::of(&documents);
    let mut warnings = model::ended_overrides(&documents, now);
    let shadowed = zones::shadowed(filed, documents.iter().map(|it| &it.value));
    if errors.is_empty() && !documents.is_empty() {
        let placed = documents.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
        match World::check(placed, now) {
            Ok(world) => warnings.extend(world.warnings(now, &places)),
            Err(found) => errors.extend(found),
        }
    }
    origins.point_out(&mut errors);
    origins.point_out(&mut warnings);
    checked.errors.extend(errors);
    checked.warnings.extend(origins.warnings.into_iter().chain(warnings).chain(shadowed));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: &str = "$TTL 1h\n@ SOA ns1 h 7 2h 10m 2w 1m\n@ NS ns1\nns1 A 192.0.2.53\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    fn checked(files: &[(&str, &str)]) -> Checked {
        let folder = folder(files);
        check_paths(&[folder.path().to_owned()]).unwrap()
    }

    #[test]
    fn a_folder_is_checked_as_what_is_in_it() {
        let right =
            [("a.yaml", "kind: Site\nname: bj\n"), ("zones/example.com.zone", ZONE), ("notes.txt", "x")];
        let found = checked(&right);
        assert_eq!((found.documents, found.zones, found.errors.len()), (1, 1, 0), "{found:?}");
        let wrong = [
            ("a.yaml", "kind: Site\nname: bj\n"),
            ("b/node.toml", "node = \"n\"\n"),
            ("example.com.zone", "@ SOA\n"),
        ];
        let said: String = checked(&wrong).errors.iter().map(|it| format!("{it}\n")).collect();
        for needle in ["node.toml", "data_dir", "example.com.zone"] {
            assert!(said.contains(needle), "no {needle} in {said}");
        }
    }

    #[test]
    fn the_summary_counts_what_was_checked() {
        let zone = ZONE.replace("1h", "4294967295");
        let found = checked(&[("a.yaml", "kind: Site\nname: bj\n"), ("example.com.zone", &zone)]);
        assert_eq!(summary(&found), "1 document, 1 zone file, no errors, 1 warning\n");
        assert_eq!(
            summary(&Checked { configurations: 2, ..Checked::default() }),
            "2 node configurations, no errors\n"
        );
    }

    #[test]
    fn a_zone_file_that_a_document_names_has_its_name_from_there() {
        let zone = "kind: Zone\nname: example.com\nfile: zones/main.zone\n";
        let found = checked(&[("w.yaml", zone), ("zones/main.zone", ZONE)]);
        assert_eq!((found.documents, found.zones, found.errors.len()), (1, 1, 0), "{found:?}");
    }

    #[test]
    fn a_file_that_a_zone_includes_is_part_of_it_whatever_its_name() {
        let including = format!("{ZONE}$INCLUDE hosts.zone\n$INCLUDE more\n");
        let parts = [("hosts.zone", "x A 192.0.2.1\n"), ("more", "y A 192.0.2.1\n")];
        let found = checked(&[&[("ex.test.zone", including.as_str())][..], &parts].concat());
        assert!(found.errors.is_empty() && found.warnings.is_empty(), "{found:?}");
        let document = ("w.yaml", "kind: Zone\nname: ex.test\nfile: main.zone\n");
        let found = checked(&[&[document, ("main.zone", including.as_str())][..], &parts].concat());
        assert!(found.errors.is_empty() && found.warnings.is_empty(), "{found:?}");
        // An error in a part is one of the zone, and is reported once.
        let found = checked(&[("ex.test.zone", &including), ("hosts.zone", "x A 1\n"), ("more", "")]);
        assert_eq!(found.errors.len(), 1, "{found:?}");
        assert_eq!(checked(&[("hosts.zone", "x A 192.0.2.1\n")]).errors.len(), 2, "by itself it is no zone");
    }

    #[test]
    fn zone_files_that_would_not_be_served_are_named() {
        let said = |files: &[(&str, &str)]| {
            let found = checked(files);
            assert!(found.errors.is_empty(), "{found:?}");
            found.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let found =
            said(&[("ex.test.zone", ZONE), ("db.example.org", ZONE), ("w.yaml", "kind: Site\nname: bj\n")]);
        assert!(found.len() == 1 && found[0].contains("would not serve 1 of its files"), "{found:?}");
        assert!(found[0].ends_with(": db.example.org; expected ORIGIN.zone"), "{found:?}");
        let found = said(&[("ex.test.zone", ZONE), ("Ex.test.zone", ZONE), ("sub/ex.test.zone", ZONE)]);
        assert!(found.len() == 1 && found[0].contains("a second file for ex.test, which"), "{found:?}");
        let folder = folder(&[("db.other", ZONE)]);
        let found = check_paths(&[folder.path().join("db.other")]).unwrap();
        let said = found.errors[0].to_string();
        assert!(found.errors.len() == 1 && said.contains("this looks like a zone file"), "{said}");
        assert!(said.contains("ORIGIN.zone"), "{said}");
    }

    #[test]
    fn a_warning_about_families_has_its_line() {
        let world = "kind: Site\nname: bj\n---\nkind: Site\nname: gz\n---\nkind: Zone\nname: example.com\n\
                     nameservers: [{ name: ns1, a: [192.0.2.53] }]\n---\nkind: Cluster\nname: main\nzone: example.com\n\
                     gateway_domain: gw.example.com\ngateways:\n  bj: { a: [192.0.2.1], aaaa: ['2001:db8::1'] }\n  \
                     gz: { a: [192.0.2.2] }\n";
        let found = checked(&[("w.yaml", world)]);
        let said = found.warnings[0].to_string();
        assert!(said.contains("w.yaml:17: Cluster main: gateways.gz: has no IPv6 address"), "{said}");
    }

    #[test]
    fn nothing_to_read_is_an_error() {
        let empty = folder(&[("notes.txt", "x")]);
        let said = |endings| find(&[empty.path().to_owned()], endings).unwrap_err().text();
        assert!(said(DOCUMENTS).ends_with("there is no file in this folder that ends in .yaml, .yml, .json"));
        assert!(said(CHECKED).ends_with(".toml, .zone"));
        let found = checked(&[("a.yaml", "# only a remark\n")]);
        assert!(found.errors[0].to_string().contains("there is no document in it"), "{found:?}");
    }

    #[test]
    fn an_override_that_has_ended_is_a_warning() {
        let world = "kind: Site\nname: bj\n---\nkind: Zone\nname: example.com\nnameservers: [{ name: ns1, a: [192.0.2.53] }]\n---\n\
                     kind: Cluster\nname: main\nzone: example.com\ngateway_domain: gw.example.com\n\
                     gateways: { bj: { a: [192.0.2.1] } }\n---\nkind: Override\nname: old\ntarget: { site: bj }\n\
                     state: drain\nowner: ops\nreason: work\nexpires: 2020-01-01T00:00:00Z\n";
        let found = checked(&[("w.yaml", world)]);
        assert!(found.errors.is_empty(), "{found:?}");
        let said = found.warnings[0].to_string();
        assert!(said.contains("w.yaml:20: Override old: expires: 2020-01-01T00:00:00Z is past"), "{said}");
    }
}
