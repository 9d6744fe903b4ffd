use std::{fs, path::Path};

/// Shows the seeds of a target to a test, each named before it.
fn seeds(name: &str, mut see: impl FnMut(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        see(&fs::read(path).unwrap());
    }
}

#[test]
fn packets() {
    seeds("packet", super::packet);
}

#[test]
fn zone_files() {
    seeds("zonefile", super::zonefile);
}

#[test]
fn most_of_what_is_common_is_answered_on_both_paths_alike() {
    let (mut seen, mut answered) = (0, 0);
    seeds("fast", |seed| {
        super::fast(seed);
        seen += 1;
        answered += usize::from(super::agree(seed, super::SOURCES[0]));
    });
    assert!(answered > seen / 2, "{answered} of {seen}");
}
