use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{
    Index, KvEntry,
    embedded::rows::{Row, RowKey},
};

fn change(key: &str, value: Vec<u8>, index: u64) -> Change {
    let entry = KvEntry {
        key: key.to_owned(),
        value: Bytes::from(value),
        flags: 7,
        create_index: Index(1),
        modify_index: Index(index),
        lock_index: 0,
        session: None,
    };
    let after = Some(Row::Kv(Arc::new(entry)));
    Change { key: RowKey::Kv(key.to_owned()), before: None, after, quiet: false }
}

fn filled(dir: &Path) {
    let (mut disk, _) = Disk::open(dir).unwrap();
    for index in 1..=20 {
        let change = change(&format!("k{index}"), vec![b'x'; 3_000], index);
        disk.write([&change].into_iter(), index).unwrap();
    }
}

fn damaged(alter: impl FnOnce(&mut Vec<u8>)) -> Result<Tables> {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let mut bytes = std::fs::read(dir.path().join("db")).unwrap();
    alter(&mut bytes);
    std::fs::write(dir.path().join("db"), bytes).unwrap();
    Disk::open(dir.path()).map(|(_, tables)| tables)
}

#[test]
fn what_was_written_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let (mut disk, tables) = Disk::open(dir.path()).unwrap();
    assert_eq!((tables.kv.len(), tables.index), (20, 20));
    let gone = Change { key: RowKey::Kv("k3".into()), before: None, after: None, quiet: false };
    let large = change("k4", vec![b'y'; crate::MAX_VALUE], 21);
    disk.write([&gone, &large].into_iter(), 21).unwrap();
    let small = change("k4", b"small".to_vec(), 22);
    disk.write([&small].into_iter(), 22).unwrap();
    drop(disk);
    let (_, tables) = Disk::open(dir.path()).unwrap();
    assert_eq!((tables.kv.len(), tables.index), (19, 22));
    assert_eq!(tables.kv["k4"].value, "small");
}

/// Files beside the log come and go at moments of sled's own, and a commit would have to sync each.
#[test]
fn large_values_stay_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (mut disk, _) = Disk::open(dir.path()).unwrap();
    for index in 1..=60 {
        let changes: Vec<_> = (0..10)
            .map(|at| change(&format!("k{}", (index * 7 + at) % 97), vec![b'x'; 64 * 1024], index))
            .collect();
        disk.write(changes.iter(), index).unwrap();
    }
    assert_eq!(std::fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
}

#[test]
fn a_log_that_lost_its_end_is_noticed() {
    for part in [0, 1, 2, 3] {
        let error = damaged(|bytes| bytes.truncate(bytes.len() * part / 4)).unwrap_err().to_string();
        assert!(error.contains("db is corrupt") && error.contains("waypost restore"), "{part}: {error}");
    }
}

#[test]
fn damage_is_noticed_or_did_none() {
    for seed in 0..30_usize {
        let outcome = damaged(|bytes| {
            let from = seed * 997 % bytes.len();
            for byte in bytes.iter_mut().skip(from).take(40) {
                *byte ^= 0x5a;
            }
        });
        match outcome {
            Ok(tables) => {
                assert_eq!((tables.kv.len(), tables.index), (20, 20), "seed {seed}");
                assert!(tables.kv.values().all(|entry| entry.value == vec![b'x'; 3_000]));
            }
            Err(EngineError::Storage(error)) => assert!(error.contains("waypost restore"), "{error}"),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_newer_format_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let db = sled::open(dir.path()).unwrap();
    let newer = br#"{"version":2,"index":20,"rows":20,"fold":0}"#;
    db.insert(SUMMARY, codec::seal(SUMMARY, newer).1).unwrap();
    db.flush().unwrap();
    drop(db);
    let error = Disk::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("newer version"), "{error}");
}

/// The store as it is after its last write failed: that write is on the disk, or it is not.
fn broken(dir: &Path, reached_the_disk: bool) -> Broken {
    let (mut disk, tables) = Disk::open(dir).unwrap();
    let before = |key: &str| tables.kv.get(key).cloned().map(Row::Kv);
    let refused = [
        Change { before: before("k1"), ..change("k1", b"refused".to_vec(), 21) },
        Change { before: before("k2"), after: None, ..change("k2", vec![], 21) },
        change("new", b"refused".to_vec(), 21),
        // Twice in one group: what was before the first of them counts.
        Change { before: change("k1", b"refused".to_vec(), 21).after, ..change("k1", b"again".to_vec(), 22) },
    ];
    if reached_the_disk {
        disk.write(refused.iter(), 22).unwrap();
    }
    disk.give_up(refused.iter(), (20, 22))
}

#[test]
fn a_refused_write_is_undone_and_acknowledged_ones_stay() {
    for reached_the_disk in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let mut disk = broken(dir.path(), reached_the_disk).recover().unwrap();
        assert!(!dir.path().join("room").exists());
        disk.write([&change("later", b"taken".to_vec(), 21)].into_iter(), 21).unwrap();
        drop(disk);
        let (_, tables) = Disk::open(dir.path()).unwrap();
        assert_eq!((tables.index, tables.kv.len()), (21, 21), "{reached_the_disk}");
        assert_eq!(tables.kv["k1"].value, vec![b'x'; 3_000]);
        assert!(tables.kv.contains_key("k2") && !tables.kv.contains_key("new"));
        assert_eq!(tables.kv["later"].value, "taken");
    }
}

#[test]
fn a_store_that_was_changed_meanwhile_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let broken = broken(dir.path(), false);
    let (mut other, _) = Disk::open(dir.path()).unwrap();
    other.write([&change("k1", b"from elsewhere".to_vec(), 23)].into_iter(), 23).unwrap();
    drop(other);
    let failure = broken.recover().unwrap_err();
    assert!(failure.unsynced && failure.error.to_string().contains("it ends at write 23"), "{failure:?}");
}

#[test]
fn without_room_the_store_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let broken = broken(dir.path(), false);
    // Nothing can be written under this name.
    std::fs::create_dir(dir.path().join("room")).unwrap();
    let failure = broken.recover().unwrap_err();
    assert!(!failure.unsynced, "it is tried again");
    std::fs::remove_dir(dir.path().join("room")).unwrap();
    broken.recover().unwrap();
}

/// What a start on a full disk, or one that was killed, leaves behind.
#[test]
fn a_snapshot_that_was_not_finished_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let unfinished = dir.path().join("snap.7FFFFFFFFFFFFFFF.generating");
    std::fs::write(&unfinished, "half").unwrap();
    let (disk, tables) = Disk::open(dir.path()).unwrap();
    assert_eq!((tables.kv.len(), tables.index), (20, 20));
    drop(disk);
    assert!(!unfinished.exists());
}
