//! The lines, and what becomes of them when they cannot be written.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use proptest::prelude::*;

use super::*;
use crate::{answers::Reason, metrics::Metrics};

/// 2026-11-27T19:06:02.045Z
const AT: Moment = Moment(1_795_806_362_045);

fn usual() -> Record<'static> {
    Record {
        at: AT,
        client: [203, 0, 113, 7].into(),
        client_port: Some(51_234),
        peer: [203, 0, 113, 7].into(),
        listener: "192.0.2.1:443",
        tls: None,
        method: b"GET",
        scheme: "https",
        host: b"shop.example.com",
        path: b"/api/v1/items/4711",
        query: b"page=2&sort=price",
        version: "1.1",
        status: 200,
        reason: None,
        route: "shop-api",
        service: "shop",
        instance: "shop-7",
        site: "ams",
        attempts: 1,
        retries: 0,
        bytes_in: 0,
        bytes_out: 1_532,
        pick: Some(Duration::from_micros(12)),
        connect: None,
        first_byte: Some(Duration::from_micros(2_345)),
        total: Duration::from_micros(2_400),
        request_id: b"0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b",
        user_agent: b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        referer: b"https://shop.example.com/",
        trace_id: b"4bf92f3577b34da6a3ce929d0e0e4736",
        hedged: false,
        mirrored: false,
    }
}

fn line(record: &Record<'_>, query: LoggedQuery) -> serde_json::Value {
    let mut out = Vec::new();
    record.append_to(&mut out, &mut Stamp::default(), query);
    assert_eq!(out.iter().filter(|it| **it == b'\n').count(), 1, "one line");
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn a_line_says_what_happened() {
    let mut out = Vec::new();
    usual().append_to(&mut out, &mut Stamp::default(), LoggedQuery::Whole);
    let expected = concat!(
        r#"{"time":"2026-11-27T19:06:02.045Z","client":"203.0.113.7","client_port":51234,"listener":"192.0.2.1:443","#,
        r#""method":"GET","scheme":"https","host":"shop.example.com","path":"/api/v1/items/4711","query":"page=2&sort=price","#,
        r#""http":"1.1","status":200,"route":"shop-api","service":"shop","instance":"shop-7","site":"ams","#,
        r#""attempts":1,"retries":0,"bytes_in":0,"bytes_out":1532,"pick_ms":0.012,"first_byte_ms":2.345,"total_ms":2.400,"#,
        r#""request_id":"0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","#,
        r#""user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0","#,
        r#""referer":"https://shop.example.com/"}"#,
        "\n"
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn what_is_special_is_in_the_line_too() {
    let record = Record {
        peer: [10, 0, 0, 1].into(),
        client: "2001:db8::1".parse().unwrap(),
        client_port: None,
        tls: Some(Tls { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", sni: "shop.example.com" }),
        status: 504,
        reason: Some(Reason::FirstByteTimeout),
        hedged: true,
        mirrored: true,
        connect: Some(Duration::from_millis(3)),
        instance: "",
        ..usual()
    };
    let line = line(&record, LoggedQuery::Whole);
    assert_eq!((line["client"].as_str(), line["peer"].as_str()), (Some("2001:db8::1"), Some("10.0.0.1")));
    assert_eq!(
        (line["tls_version"].as_str(), line["sni"].as_str()),
        (Some("TLSv1.3"), Some("shop.example.com"))
    );
    assert_eq!((line["reason"].as_str(), &line["status"]), (Some("first_byte_timeout"), &504.into()));
    assert_eq!(
        (&line["hedged"], &line["mirrored"], &line["connect_ms"]),
        (&true.into(), &true.into(), &3.0.into())
    );
    assert!(line.get("instance").is_none() && line.get("client_port").is_none());
}

#[test]
fn values_of_queries_can_be_left_out() {
    let from =
        |how| line(&Record { referer: b"https://a.example/x?token=1#f", ..usual() }, how)["referer"].clone();
    assert_eq!(from(LoggedQuery::Names), "https://a.example/x");
    assert_eq!(from(LoggedQuery::Whole), "https://a.example/x?token=1#f");
    let of = |query: &'static [u8], how| line(&Record { query, ..usual() }, how).get("query").cloned();
    assert_eq!(of(b"token=secret&q=1&flag&&a=", LoggedQuery::Names), Some("token=*&q=*&flag&a".into()));
    assert_eq!(of(b"token=secret", LoggedQuery::Off), None);
    assert_eq!(of(b"", LoggedQuery::Names), None);
    assert_eq!(of(b"", LoggedQuery::Whole), None);
}

#[test]
fn long_texts_are_cut() {
    let (path, agent) = (vec![b'a'; 100_000], vec![b'"'; 5_000]);
    let line = line(&Record { path: &path, user_agent: &agent, query: &path, ..usual() }, LoggedQuery::Names);
    assert_eq!(line["path"].as_str().unwrap().chars().count(), 4_097);
    assert_eq!(line["user_agent"].as_str().unwrap(), "\"".repeat(1_024) + "…");
    assert_eq!(line["query"].as_str().unwrap().len(), 4_096);
}

proptest! {
    #[test]
    fn any_texts_are_one_line_of_json(
        path in prop::collection::vec(any::<u8>(), 0..50),
        agent in prop::collection::vec(any::<u8>(), 0..50),
        query in prop::collection::vec(any::<u8>(), 0..50),
        at in 0u64..4_000_000_000_000,
        names in any::<bool>(),
    ) {
        let record = Record { path: &path, user_agent: &agent, query: &query, host: &path, at: Moment(at), ..usual() };
        let line = line(&record, if names { LoggedQuery::Names } else { LoggedQuery::Whole });
        let lossy = String::from_utf8_lossy(&agent);
        prop_assert_eq!(line.get("user_agent").and_then(|it| it.as_str()).unwrap_or(""), lossy);
    }

    #[test]
    fn addresses_are_written_as_the_library_writes_them(octets in any::<[u8; 4]>()) {
        let record = Record { client: octets.into(), ..usual() };
        let line = line(&record, LoggedQuery::Off);
        prop_assert_eq!(line["client"].as_str().unwrap(), record.client.to_string());
    }
}

/// What is written, and how writing behaves.
#[derive(Clone, Default)]
struct Target(Arc<Behaviour>);

#[derive(Default)]
struct Behaviour {
    written: Mutex<Vec<u8>>,
    stuck: AtomicBool,
    full: AtomicBool,
    waiting: AtomicBool,
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.stuck.load(Ordering::SeqCst) {
            self.0.waiting.store(true, Ordering::SeqCst);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.0.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // In pieces, as disks and pipes may.
        let piece = bytes.len().min(1_000);
        self.0.written.lock().unwrap().extend_from_slice(&bytes[..piece]);
        Ok(piece)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target {
    fn lines(&self) -> usize {
        let written = self.0.written.lock().unwrap();
        let text = str::from_utf8(&written).unwrap();
        text.lines().filter(|it| serde_json::from_str::<serde_json::Value>(it).is_ok()).count()
    }
}

fn log_to(target: &Target, buffer: usize) -> (LogWriter, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let settings = AccessLog { buffer, ..AccessLog::to(LogTarget::Stdout) };
    let log = LogWriter::start_on(Box::new(target.clone()), settings, Arc::clone(&metrics), || AT).unwrap();
    (log, metrics)
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

const PATIENT: Duration = Duration::from_secs(20);

#[test]
fn lines_of_all_workers_are_written() {
    let target = Target::default();
    let (log, metrics) = log_to(&target, AccessLog::MIN_BUFFER * 64);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let mut worker = log.worker();
            scope.spawn(move || (0..1_000).for_each(|_| worker.write(&usual(), AT)));
        }
    });
    log.finish(PATIENT);
    assert_eq!((target.lines(), metrics.access_log_lines.get()), (3_000, 3_000));
    assert_eq!(metrics.access_log_dropped.get(), 0);
}

#[test]
fn a_quiet_worker_hands_its_lines_over_after_half_a_second() {
    let target = Target::default();
    let (log, _) = log_to(&target, AccessLog::MIN_BUFFER);
    let mut worker = log.worker();
    worker.write(&usual(), AT);
    worker.tick(Moment(AT.0 + 499));
    assert_eq!(worker.lines, 1);
    worker.tick(Moment(AT.0 + 500));
    assert_eq!(worker.lines, 0);
    log.finish(PATIENT);
    assert_eq!(target.lines(), 1);
}

#[test]
fn a_pipe_that_is_not_read_costs_lines_and_delays_no_request() {
    let target = Target::default();
    target.0.stuck.store(true, Ordering::SeqCst);
    let (log, metrics) = log_to(&target, AccessLog::MIN_BUFFER);
    let mut worker = log.worker();
    let sent = 2_000;
    (0..sent).for_each(|_| worker.write(&usual(), AT));
    until("the thread waits for the pipe", || target.0.waiting.load(Ordering::SeqCst));
    let dropped = metrics.access_log_dropped.get();
    assert!((1_000..2_000).contains(&dropped), "{dropped} of {sent}: the queue has four places");
    log.finish(Duration::from_millis(1));
    target.0.stuck.store(false, Ordering::SeqCst);
    drop(worker);
    until("the rest is written", || {
        metrics.access_log_lines.get() + metrics.access_log_dropped.get() == sent
    });
    assert_eq!(target.lines() as u64, metrics.access_log_lines.get());
}

#[test]
fn a_full_disk_costs_lines_and_is_written_to_again() {
    let target = Target::default();
    let (log, metrics) = log_to(&target, AccessLog::MIN_BUFFER);
    target.0.full.store(true, Ordering::SeqCst);
    let write = |lines: usize| {
        let mut worker = log.worker();
        (0..lines).for_each(|_| worker.write(&usual(), AT));
    };
    write(10);
    log.finish(PATIENT);
    assert_eq!(metrics.access_log_dropped.get(), 10);
    target.0.full.store(false, Ordering::SeqCst);
    write(5);
    log.finish(PATIENT);
    assert_eq!((target.lines(), metrics.access_log_lines.get()), (5, 5));
}

#[test]
fn a_line_that_was_torn_is_ended_before_the_next() {
    struct Torn(Target, usize);
    impl Write for Torn {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            match self.1 {
                1 => self.0.write(&bytes[..700]),
                2 => Err(io::ErrorKind::StorageFull.into()),
                _ => self.0.write(bytes),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (target, metrics) = (Target::default(), Arc::new(Metrics::default()));
    let settings = AccessLog::to(LogTarget::Stdout);
    let log = LogWriter::start_on(Box::new(Torn(target.clone(), 0)), settings, Arc::clone(&metrics), || AT)
        .unwrap();
    for lines in [3, 2] {
        let mut worker = log.worker();
        (0..lines).for_each(|_| worker.write(&usual(), AT));
        drop(worker);
        log.finish(PATIENT);
    }
    assert_eq!(metrics.access_log_dropped.get(), 2, "of three lines, one was written");
    assert_eq!(target.lines(), 3);
}

#[test]
fn the_file_is_opened_again_after_it_was_moved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let settings = AccessLog::to(LogTarget::File(path.clone()));
    let log = LogWriter::start(settings, Arc::default(), || AT).unwrap();
    let write = || {
        log.worker().write(&usual(), AT);
        log.finish(PATIENT);
    };
    let lines = |path: &Path| fs::read_to_string(path).unwrap().lines().count();
    write();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0, "at most 0640");
    let moved = folder.path().join("access.log.1");
    fs::rename(&path, &moved).unwrap();
    write();
    assert_eq!(lines(&moved), 2, "until it is opened again");
    log.reopen().unwrap();
    write();
    assert_eq!((lines(&moved), lines(&path)), (2, 1));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = log.reopen().unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write to {}", path.display())), "{error}");
    write();
}

#[test]
fn samples_lie_evenly_and_failures_are_always_logged() {
    let (log, _) = log_to(&Target::default(), AccessLog::MIN_BUFFER);
    let mut worker = log.worker();
    assert!((0..10).all(|_| worker.wants(false)), "all by default");
    worker.sample = 250_000;
    let wanted: Vec<_> = (0..8).map(|_| worker.wants(false)).collect();
    assert_eq!(wanted, [false, false, false, true, false, false, false, true]);
    assert!((0..10).all(|_| worker.wants(true)));
    worker.sample = 0;
    worker.owed = 0;
    assert!((0..10).all(|_| !worker.wants(false)));
}
