use std::sync::{Condvar, Mutex};

use super::*;

/// A place to write to that can be full, or have a reader that sleeps.
#[derive(Clone, Default)]
struct Place(Arc<(Mutex<Shown>, Condvar)>);

#[derive(Default)]
struct Shown {
    text: String,
    full: bool,
    asleep: bool,
    /// Octets that are written before a write fails.
    room: usize,
}

impl Place {
    fn change(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap().text.clone()
    }
}

impl Write for Place {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut shown = self.0.1.wait_while(self.0.0.lock().unwrap(), |shown| shown.asleep).unwrap();
        let fits = if shown.full { octets.len().min(shown.room) } else { octets.len() };
        if fits == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        shown.room = shown.room.saturating_sub(fits);
        shown.text.push_str(&String::from_utf8_lossy(&octets[..fits]));
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log() -> (Lines, Place) {
    let (lines, place) = (Lines::new(Format::Text), Place::default());
    lines.start_writing(Box::new(place.clone()));
    (lines, place)
}

fn written(lines: &Lines) {
    lines.wait_until_written(Duration::from_secs(20));
    assert_eq!(lines.0.waiting.load(Ordering::Relaxed), 0);
}

#[test]
fn lines_are_written_in_their_order() {
    let (lines, place) = log();
    for n in 0..1_000 {
        lines.put(format!("{n}\n").as_bytes());
    }
    written(&lines);
    assert_eq!(place.text(), (0..1_000).map(|n| format!("{n}\n")).collect::<String>());
    assert_eq!(lines.0.metrics.dropped.get(), 0);
}

#[test]
fn a_full_disk_costs_lines_and_the_log_says_how_many() {
    let (lines, place) = log();
    place.change(|it| (it.full, it.room) = (true, 3));
    lines.put(b"torn apart\n");
    lines.put(b"lost\n");
    written(&lines);
    assert_eq!(lines.0.metrics.dropped.get(), 2);
    place.change(|it| it.full = false);
    lines.put(b"again\n");
    written(&lines);
    let text = place.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[2]), (3, "tor", "again"), "{text}");
    assert!(lines[1].contains("WARN") && lines[1].contains(": 2 log lines were dropped"), "{text}");
}

#[test]
fn a_reader_that_sleeps_is_not_waited_for() {
    let (lines, place) = log();
    place.change(|it| it.asleep = true);
    let more = 3 * MAX_LINES;
    for n in 0..more {
        lines.put(format!("{n}\n").as_bytes());
    }
    let dropped = usize::try_from(lines.0.metrics.dropped.get()).unwrap();
    assert!(dropped >= more - MAX_LINES - 2, "{dropped}");
    place.change(|it| it.asleep = false);
    written(&lines);
    assert!(place.text().contains("log lines were dropped"), "the loss is logged once there is room");
}

#[test]
fn long_lines_are_cut_and_octets_are_bounded() {
    let (lines, place) = log();
    lines.put(&[b'x'; 2 * MAX_LINE]);
    written(&lines);
    assert!(place.text().ends_with("x (cut off)\n") && place.text().len() < MAX_LINE + 20);
    place.change(|it| it.asleep = true);
    for _ in 0..=MAX_OCTETS / MAX_LINE {
        lines.put(&[b'x'; 2 * MAX_LINE]);
    }
    assert!(lines.0.waiting.load(Ordering::Relaxed) <= MAX_OCTETS);
    assert!(lines.0.metrics.dropped.get() > 0);
    place.change(|it| it.asleep = false);
}

#[test]
fn lines_of_the_logs_own_look_like_all_others() {
    let text = line(Format::Text, "WARN", "said \"so\"");
    assert!(text.ends_with("  WARN waypost::telemetry::log: said \"so\"\n"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&line(Format::Json, "WARN", "said \"so\"")).unwrap();
    assert_eq!((json["level"].as_str(), json["message"].as_str()), (Some("WARN"), Some("said \"so\"")));
}

#[test]
fn a_log_file_that_was_moved_away_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("waypost.log");
    drop(append_to(&path).unwrap());
    // Without a thread that writes the order goes nowhere, and that is said.
    let idle = Lines::new(Format::Text);
    idle.set_open(Some(Signature::of_identity(&path)));
    let part = part_of(idle, &path);
    assert_eq!(part.read_here(), Outcome::Unchanged);
    std::fs::rename(&path, dir.path().join("waypost.log.1")).unwrap();
    assert!(matches!(part.read_here(), Outcome::Kept(_)));
    assert!(path.exists(), "another one is there");
    let nowhere = append_to(&dir.path().join("no/where")).unwrap_err().to_string();
    assert!(nowhere.contains("no/where: No such file"), "{nowhere}");
}

/// What a log does whose file could not be opened at the start.
#[test]
fn a_log_file_that_cannot_be_opened_is_tried_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later/waypost.log");
    let (lines, place) = log();
    lines.put(b"before\n");
    written(&lines);
    let part = part_of(lines.clone(), &path);
    let closed = part.look_here();
    assert!(
        matches!(part.read_here(), Outcome::Kept(why) if why.contains("later/waypost.log: No such file"))
    );
    assert_eq!(closed, part.look_here(), "while nothing changes it is not said again");
    std::fs::create_dir(dir.path().join("later")).unwrap();
    assert_ne!(closed, part.look_here(), "it can be opened now");
    assert!(matches!(part.read_here(), Outcome::Reread(_)));
    lines.put(b"after\n");
    written(&lines);
    assert_eq!(
        (place.text().as_str(), std::fs::read_to_string(&path).unwrap().as_str()),
        ("before\n", "after\n")
    );
    assert_eq!(part.read_here(), Outcome::Unchanged);
}

#[test]
fn a_pipe_without_a_reader_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let (lines, _place) = log();
    let part = part_of(lines.clone(), &path);
    assert!(matches!(part.read_here(), Outcome::Kept(why) if why.contains("pipe")));
    let before = part.look_here();
    let at_once = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut reader = File::options().read(true).custom_flags(at_once).open(&path).unwrap();
    assert_ne!(before, part.look_here());
    assert!(matches!(part.read_here(), Outcome::Reread(_)));
    lines.put(b"a line\n");
    written(&lines);
    let mut read = [0; 64];
    let length = io::Read::read(&mut reader, &mut read).unwrap();
    assert_eq!(&read[..length], b"a line\n");
}

#[test]
fn whether_a_file_can_be_written_is_found_out_without_writing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("waypost.log");
    try_file(&path).unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "x").unwrap();
    try_file(&path).unwrap();
    assert!(try_file(&dir.path().join("no/where")).is_err());
    assert!(try_file(dir.path()).is_err(), "a folder");
}
