//! The list of requirements in `MUSTS.md` names tests that exist.

use std::{collections::BTreeSet, fs, path::Path};

/// The names of all tests in the sources below a folder.
fn tests(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let marked = ["#[test]", "#[tokio::test"].into_iter().flat_map(|mark| text.split(mark).skip(1));
            let names = marked.filter_map(|rest| rest.split_once("fn ")?.1.split('(').next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn every_requirement_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("MUSTS.md")).unwrap();
    let mut found = BTreeSet::new();
    tests(&root.join("src"), &mut found);
    let (mut rows, mut wrong) = (0, Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if cells.first() == Some(&"section") {
            continue;
        }
        rows += 1;
        let &[section, _, _, shown] = cells.as_slice() else {
            wrong.push(format!("{number}: not four columns"));
            continue;
        };
        if !section.starts_with(|first: char| first.is_ascii_digit()) {
            wrong.push(format!("{number}: no section"));
        }
        let named: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            wrong.push(format!("{number}: no test"));
        }
        let missing = named.into_iter().filter(|name| !found.contains(*name));
        wrong.extend(missing.map(|name| format!("{number}: no test is named {name}")));
    }
    assert!(wrong.is_empty(), "MUSTS.md:\n  {}", wrong.join("\n  "));
    assert!(rows > 100, "{rows} rows");
}
