//! Links between the pages of the repository: each leads to a file that exists, and to a heading in it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The pages at the root and in the folders with documentation.
fn pages(root: &Path) -> Vec<PathBuf> {
    let folders = [root.to_owned(), root.join("docs"), root.join("deploy")];
    let files =
        folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let mut pages: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    pages.sort();
    pages
}

/// The lines of a page that are not code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

/// What links to the headings of a page end in, as GitHub forms it.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    for (_, heading) in headings {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let name: String =
            heading.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect();
        let name = name.replace(' ', "-");
        let with_number = (1..).map(|n| format!("{name}-{n}"));
        let free = std::iter::once(name.clone()).chain(with_number).find(|it| !anchors.contains(it));
        anchors.extend(free);
    }
    anchors
}

/// Where the links of a line lead, `[text](TARGET)`, but not those in code.
fn targets(line: &str) -> Vec<String> {
    let without_code: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    let rest = without_code.split("](").skip(1);
    rest.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// The links that lead nowhere: page, line and target.
pub(crate) fn broken(root: &Path) -> Vec<String> {
    let mut broken = Vec::new();
    for page in pages(root) {
        let text = fs::read_to_string(&page).unwrap();
        for (number, line) in prose(&text) {
            for target in targets(line) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
                let file = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
                let has_anchor =
                    || fs::read_to_string(&file).is_ok_and(|text| anchors(&text).contains(anchor));
                if !file.exists() || !(anchor.is_empty() || has_anchor()) {
                    let page = page.strip_prefix(root).unwrap().display();
                    broken.push(format!("{page}:{number}: {target}"));
                }
            }
        }
    }
    broken
}

#[test]
fn links_and_headings_are_found() {
    let page = "# One `thing`: its name\n```\n# no heading [a](b)\n```\n## Twice\n## Twice\n";
    let expected = ["one-thing-its-name", "twice", "twice-1"].map(str::to_owned);
    assert_eq!(anchors(page), BTreeSet::from(expected));
    assert_eq!(targets("[a](x.md), `[b](c)` and [`d`](#e)"), ["x.md", "#e"]);
    let dir = tempfile::tempdir().unwrap();
    for folder in ["docs", "deploy"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    fs::write(dir.path().join("A.md"), "# Here\n[a](docs/b.md#there) [b](#here)\n[c](none.md) [d](#gone)\n")
        .unwrap();
    fs::write(dir.path().join("docs/b.md"), "# There\n[a](../A.md) [b](../A.md#there)\n").unwrap();
    assert_eq!(broken(dir.path()), ["A.md:3: none.md", "A.md:3: #gone", "docs/b.md:2: ../A.md#there"]);
}
