use std::{fs, path::Path};

/// Runs a target over its seeds, each of which names itself when it fails.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    assert!(seeds.len() >= 10, "{} seeds", seeds.len());
    for seed in seeds {
        println!("{}", seed.display());
        target(&fs::read(seed).unwrap());
    }
}

#[test]
fn packets() {
    replay("packet", super::packet);
}

#[test]
fn zone_files() {
    replay("zonefile", super::zonefile);
}

#[test]
fn fast_and_general_path() {
    replay("fast", super::fast);
}
