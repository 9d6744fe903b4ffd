//! The house rules a compiler does not hold: the arrows between crates, sizes, words, and honest tests.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test binary")]

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/links.rs"]
mod links;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Every crate but the root: its folder, and the workspace members that it may name.
const MEMBERS: [(&str, &[&str]); 6] = [
    ("dns", &["store"]),
    ("proxy", &["store"]),
    ("prober", &["store"]),
    ("store", &["engine", "model"]),
    ("store/engine", &[]),
    ("store/model", &[]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    fs::read_to_string(&path).unwrap().parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn package_name(folder: &str) -> String {
    manifest(folder)["package"]["name"].as_str().unwrap().to_owned()
}

/// The workspace members a crate names anywhere in its manifest.
fn named_members(folder: &str) -> BTreeSet<String> {
    let manifest = manifest(folder);
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
    let names =
        tables.iter().filter_map(|table| manifest.get(*table)?.as_table()).flat_map(toml::Table::keys);
    let members: BTreeSet<String> = MEMBERS.iter().map(|(folder, _)| package_name(folder)).collect();
    names.filter(|name| members.contains(*name)).cloned().collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let skipped = path.file_name().is_some_and(|name| name == "target" || name == "fuzz");
        if path.is_dir() && !skipped {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "dns", "proxy", "prober", "store"] {
        sources(&root().join(folder), &mut paths);
    }
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root()).unwrap().to_owned(), text)
        })
        .collect()
}

fn none(what: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{what}:\n  {}", offenders.join("\n  "));
}

#[test]
fn arrows_point_one_way() {
    for (folder, allowed) in MEMBERS {
        let allowed: BTreeSet<String> = allowed.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(named_members(folder), allowed, "what {folder} may name");
    }
    let listed: BTreeSet<_> = MEMBERS.iter().map(|(folder, _)| *folder).chain(["."]).collect();
    let manifest = manifest(".");
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<_> = members.iter().filter_map(toml::Value::as_str).collect();
    assert_eq!(members, listed, "every crate of the workspace has its arrows here");
}

#[test]
fn every_crate_takes_the_workspace_lints_and_versions() {
    for folder in MEMBERS.into_iter().map(|(folder, _)| folder).chain(["."]) {
        let manifest = manifest(folder);
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{folder}");
        for (name, spec) in manifest["dependencies"].as_table().unwrap() {
            let shared = spec.get("workspace").and_then(toml::Value::as_bool);
            assert_eq!(shared, Some(true), "{folder}: {name} has a version of its own");
        }
    }
}

#[test]
fn plain_cargo_commands_cover_everything() {
    let manifest = manifest(".");
    let members: Vec<_> = manifest["workspace"]["members"].as_array().unwrap().clone();
    assert_eq!(manifest["workspace"]["default-members"].as_array(), Some(&members));
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<_> = all_sources()
        .into_iter()
        .filter(|(path, text)| !text.starts_with("//!") && !path.ends_with("tests.rs"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    none("modules without an opening", &silent);
}

#[test]
fn files_stay_readable() {
    let long: Vec<_> = all_sources()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > 800)
        .map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count()))
        .collect();
    none("files over 800 lines", &long);
}

#[test]
fn nothing_is_left_open_and_no_test_is_ignored() {
    let words = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ig", "nore"),
        concat!("dbg", "!("),
    ];
    let mut offenders = Vec::new();
    for (path, text) in all_sources() {
        for (number, line) in (1..).zip(text.lines()) {
            if words.iter().any(|word| line.contains(word)) {
                offenders.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    none("open ends", &offenders);
}

#[test]
fn words_that_say_nothing_are_not_used() {
    let empty = ["Manager", "Helper", "Util", "Info"];
    let mut offenders = Vec::new();
    for (path, text) in all_sources().into_iter().filter(|(path, _)| !path.ends_with("tidy.rs")) {
        for (number, line) in (1..).zip(text.lines()) {
            let declared = ["struct ", "enum ", "trait ", "type "].iter().find_map(|it| line.split_once(it));
            let Some((_, name)) = declared.filter(|_| !line.trim_start().starts_with("//")) else { continue };
            let name: String = name.chars().take_while(|c| c.is_alphanumeric()).collect();
            if empty.iter().any(|word| name.ends_with(word)) {
                offenders.push(format!("{}:{number}: {name}", path.display()));
            }
        }
    }
    none("names that say nothing", &offenders);
}

#[test]
fn architecture_stays_short() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(text.lines().count() < 200, "{} lines", text.lines().count());
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    none("links that lead nowhere", &links::broken(root()));
}

#[test]
fn modules_form_no_circles() {
    let mut found = Vec::new();
    for folder in MEMBERS.iter().map(|(folder, _)| *folder).chain(["."]) {
        for circle in circles::of_crate(&root().join(folder).join("src")) {
            let (modules, arrows) = (circle.modules.join(", "), circle.arrows.join("\n    "));
            found.push(format!("{folder}: {modules}\n    {arrows}"));
        }
    }
    none("circles of modules", &found);
}
