//! The list of requirements in `MUSTS.md` names tests that exist.

use std::{collections::BTreeSet, fs, path::Path};

/// The names of all functions in the sources below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn every_requirement_names_tests_that_exist_or_is_open() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("MUSTS.md")).unwrap();
    let mut tests = BTreeSet::new();
    functions(&root.join("src"), &mut tests);
    let (mut rows, mut open, mut wrong) = (0, 0, Vec::new());
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
        if shown.starts_with("open: ") {
            open += 1;
            continue;
        }
        let named: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            wrong.push(format!("{number}: neither a test nor open"));
        }
        let missing = named.into_iter().filter(|name| !tests.contains(*name));
        wrong.extend(missing.map(|name| format!("{number}: no test is named {name}")));
    }
    assert!(wrong.is_empty(), "MUSTS.md:\n  {}", wrong.join("\n  "));
    assert!(rows > 100, "{rows} rows");
    println!("{rows} requirements, {open} of them open");
}
