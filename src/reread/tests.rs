use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use super::*;

/// A part that keeps the text of a file, unless it is "bad".
fn text(path: &Path, in_use: Option<Content>) -> (Part, Arc<Mutex<String>>) {
    let text = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&text);
    let files = Files::new(vec![path.to_owned()], 16);
    let part = Part::of_files("text", files, in_use, move |contents| {
        let text = String::from_utf8_lossy(&contents[0]).into_owned();
        if text == "bad" {
            return Err("it is bad".to_owned());
        }
        text.clone_into(&mut into.lock().unwrap());
        Ok(text)
    });
    (part, text)
}

#[tokio::test]
async fn a_file_that_cannot_be_used_keeps_the_old_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let (part, in_use) = text(&path, Some(Content::of(&["old"])));
    let part = Arc::new(part);
    std::fs::write(&path, "old").unwrap();
    assert_eq!(Part::read(&part).await, Outcome::Unchanged);
    std::fs::write(&path, "new").unwrap();
    assert_eq!(Part::read(&part).await, Outcome::Reread("new".to_owned()));
    assert_eq!(Part::read(&part).await, Outcome::Unchanged);
    std::fs::write(&path, "bad").unwrap();
    for _ in 0..2 {
        assert_eq!(
            Part::read(&part).await,
            Outcome::Kept("it is bad".to_owned()),
            "reported at every SIGHUP"
        );
    }
    std::fs::write(&path, "more than sixteen octets").unwrap();
    assert!(matches!(Part::read(&part).await, Outcome::Kept(why) if why.contains("larger than 16 octets")));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Part::read(&part).await, Outcome::Kept(why) if why.contains("file: No such file")));
    assert_eq!(*in_use.lock().unwrap(), "new");
}

#[tokio::test]
async fn a_reader_that_panics_fails_its_own_reading_only() {
    let part = Part::new("broken", || Signature::of_files::<&str>(&[]), || panic!("a test of a defect"));
    assert!(matches!(Part::read(&Arc::new(part)).await, Outcome::Kept(why) if why.contains("a defect")));
}

/// A signal that is sent to the whole process and that only this test listens for.
fn user_signal() -> Signal {
    signal(SignalKind::user_defined2()).unwrap()
}

async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
}

#[tokio::test]
async fn a_signal_reads_every_part_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "there").unwrap();
    let (part, in_use) = text(&path, None);
    let read = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&read);
    let mut rereads = Rereads::default();
    let nothing = || Signature::of_files::<&str>(&[]);
    let broken = Part::new("broken", nothing, || Outcome::Kept("always".to_owned()));
    let counting = Part::new("counting", nothing, move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Outcome::Unchanged
    });
    rereads.extend([broken, part, counting]);
    let running = tokio::spawn(rereads.run_on(user_signal()));
    tokio::task::yield_now().await;
    let me = rustix::process::getpid();
    rustix::process::kill_process(me, rustix::process::Signal::USR2).unwrap();
    until(|| *in_use.lock().unwrap() == "there" && read.load(Ordering::Relaxed) == 1).await;
    running.abort();
}

#[tokio::test]
async fn a_change_is_read_without_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "old").unwrap();
    let (part, in_use) = text(&path, Some(Content::of(&["old"])));
    let mut rereads = Rereads::default();
    rereads.extend([part]);
    let signal = signal(SignalKind::user_defined1()).unwrap();
    let running = tokio::spawn(rereads.run_on(signal));
    std::fs::write(&path, "new").unwrap();
    until(|| *in_use.lock().unwrap() == "new").await;
    running.abort();
}
