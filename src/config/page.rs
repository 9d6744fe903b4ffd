//! `docs/configuration.md` and the samples compared with the reader.
//!
//! Which keys there are is asked of the reader itself, while it reads the examples of the page. Defaults and allowed values
//! of the page are tried out on those examples.

use std::collections::{BTreeMap, BTreeSet};

use store::model::reference::{Row, with};
use tempfile::TempDir;

use super::*;

const PAGE: &str = include_str!("../../docs/configuration.md");
const SAMPLE: &str = include_str!("../../deploy/config.sample.toml");

/// The page: its rows by key, and its examples as trees.
struct Page {
    rows: BTreeMap<String, Row>,
    /// The one that has all sections of the page, and the others.
    examples: Vec<Node>,
    /// The folder of the files that the examples name.
    files: TempDir,
}

/// What a heading such as `` ## `[dns.rate_limit]` `` adds before its keys.
fn prefix(heading: &str) -> String {
    let section = heading.split_once("`[").and_then(|(_, rest)| rest.split_once(']'));
    section.map_or_else(String::new, |(section, _)| format!("{section}."))
}

fn rows() -> BTreeMap<String, Row> {
    let (mut rows, mut before) = (BTreeMap::new(), String::new());
    // The table of types comes before the first heading.
    for line in PAGE.lines().skip_while(|line| !line.starts_with("## ")) {
        if line.starts_with("##") {
            before = prefix(line);
        }
        if let Some((key, row)) = Row::of_line(line) {
            let twice = rows.insert(format!("{before}{key}"), row);
            assert!(twice.is_none(), "described before: {line}");
        }
    }
    rows
}

/// The blocks of TOML: those that begin with `node` are whole configurations of their own after the first.
fn texts() -> Vec<String> {
    let blocks = PAGE.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("\n```"));
    let mut texts: Vec<String> = Vec::new();
    for (block, _) in blocks {
        match texts.last_mut() {
            Some(text) if !block.starts_with("node") => text.push_str(&format!("\n{block}\n")),
            _ => texts.push(format!("{block}\n")),
        }
    }
    texts
}

/// Writes what the examples name, and gives the text with those names.
fn with_files(text: &str, files: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::create_dir_all(files.join("zones")).unwrap();
    let write = |name: &str, content: &[u8]| std::fs::write(files.join(name), content).unwrap();
    for certificate in ["node.pem", "dns.pem", "ca.pem", "check-ca.pem"] {
        write(certificate, made.cert.pem().as_bytes());
    }
    for key in ["node.key", "dns.key"] {
        write(key, made.signing_key.serialize_pem().as_bytes());
    }
    write("city.mmdb", include_bytes!("../../store/src/geo/test.mmdb"));
    write("problem.json", b"{\"error\": \"{{reason}}\", \"status\": {{status}}}");
    write("error.html", b"<h1>{{title}}</h1>\n<p>{{detail}}.</p>");
    write("cookie", b"e5e973e5a6b2a43f48e7dc849e37bfcf\n");
    for token in ["operator", "node", "prober", "metrics", "site"] {
        write(token, b"0123456789abcdef\n");
    }
    let files = files.display().to_string();
    ["/etc/waypost", "/run/credentials", "/var/log/waypost"]
        .into_iter()
        .fold(text.to_owned(), |text, folder| text.replace(folder, &files))
}

fn page() -> Page {
    let files = tempfile::tempdir().unwrap();
    let tree = |text: &String| {
        let errors = InputErrors::new("configuration.md".into());
        let tree = toml::parse(&with_files(text, files.path()), &errors);
        assert_eq!(errors.count(), 0, "{errors:?}");
        tree
    };
    let examples = texts().iter().map(tree).collect();
    Page { rows: rows(), examples, files }
}

/// Reads a tree: the configuration as text, the errors, and every key that was asked for.
fn read(tree: &Node) -> (Option<String>, Vec<InputError>, Vec<String>) {
    let errors = InputErrors::recording("configuration.md".into());
    let read = read_sections(&Reader::new(&errors, "", tree), tree, &errors);
    let asked = errors.looked_up_fields();
    let errors = errors.into_vec();
    (read.filter(|_| errors.is_empty()).map(|config| format!("{config:?}")), errors, asked)
}

fn value(text: &str) -> Node {
    let errors = InputErrors::new("default".into());
    let tree = toml::parse(&format!("v = {text}\n"), &errors);
    assert_eq!(errors.count(), 0, "{errors:?}");
    tree.entry("v").unwrap().value.clone()
}

#[test]
fn the_page_describes_every_key_and_no_other() {
    let page = page();
    let described: BTreeSet<String> = page.rows.keys().cloned().collect();
    let asked: BTreeSet<String> = page.examples.iter().flat_map(|example| read(example).2).collect();
    let missing: Vec<_> = asked.difference(&described).collect();
    let unknown: Vec<_> = described.difference(&asked).collect();
    assert!(missing.is_empty(), "docs/configuration.md does not describe {missing:?}");
    assert!(
        unknown.is_empty(),
        "docs/configuration.md describes {unknown:?}, which the reader does not know"
    );
}

#[test]
fn every_example_and_every_sample_is_read() {
    let page = page();
    assert!(page.examples.len() > 1);
    for example in &page.examples {
        assert_eq!(read(example).1, []);
    }
    // The keys that the sample shows in comments as well.
    let all: Vec<&str> = SAMPLE.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
    let is_key = |line: &&&str| {
        let line = line.trim_start();
        line.starts_with('[')
            || line.split_once(" = ").is_some_and(|(key, _)| !key.trim_matches('"').contains(' '))
    };
    let all: String = all.iter().filter(is_key).map(|line| format!("{line}\n")).collect();
    for text in [SAMPLE, &all] {
        let read = Config::parse("config.sample.toml", &with_files(text, page.files.path()));
        assert!(read.is_ok(), "{read:?}\n{all}");
    }
}

#[test]
fn the_defaults_of_the_page_are_those_of_the_reader() {
    let page = page();
    let wrong = page
        .rows
        .iter()
        .filter_map(|(key, row)| row.wrong_default(key, &page.examples, value, |tree| read(tree).0));
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn the_page_names_the_words_and_ranges_that_the_reader_takes() {
    let page = page();
    let example = &page.examples[0];
    let mut unnamed = Vec::new();
    for (key, row) in &page.rows {
        for probe in ["\"?\"", "\"49711d\"", "99999999999", "-1"] {
            let errors = read(&with(example, key, &value(probe))).1;
            let of_key = errors.iter().filter(|error| &error.field == key);
            unnamed
                .extend(of_key.filter_map(|error| Some(format!("{key}: {}", row.unnamed(&error.expected)?))));
        }
    }
    assert_eq!(unnamed, Vec::<String>::new());
}
