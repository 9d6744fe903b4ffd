//! A gateway alone, to be measured or profiled from outside: it listens on 127.0.0.1:8000 with one worker and 10,000 routes, and
//! forwards requests for `bench.example.com` to 127.0.0.1:9000, until it is stopped.
//!
//! It is what `tests/bench/proxy-candidate` starts, without engine, follower and admin API, and is built in a fraction of
//! the time: `cargo bench -p proxy --bench gateway`.

use std::time::Duration;

use proxy::{Config, Limits, Listener};
use store::{
    Clock,
    board::Board,
    discovery::{Entry, Standing},
    engine::Endpoint,
    handle,
    model::{Domain, PathMatch, Recovery, Route, RouteTarget, Sources, Span, Weight},
    testing::{self, name},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `cargo test` runs benchmarks too, with this argument missing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config {
        cluster: name("main"),
        site: name("s1"),
        node: "bench".into(),
        boot: "bench".into(),
        listeners: vec![Listener::plain("127.0.0.1:8000".parse()?)],
        workers: 1,
        lameduck: Duration::ZERO,
        folder: std::path::PathBuf::new(),
        shutdown_deadline: Duration::from_secs(1),
        limits: Limits::default(),
        tls: proxy::tls::ServerTls::default(),
    };
    let (handle, publisher) = handle::channel(Clock::default(), Duration::from_secs(3_600));
    let running = proxy::bind(config, handle)?.run();
    publisher.publish_snapshot(testing::compile(sources()?, &Board::default()).into());
    let endpoint = Endpoint { port: 9_000, ..testing::endpoint("web", "web-1") };
    let entry = Entry { endpoints: vec![endpoint], standing: Standing::Present, ..Entry::default() };
    publisher.discovery().slot("web").store(entry);
    publisher.discovery_changed();
    running.await?;
    Ok(())
}

fn sources() -> Result<Sources, Box<dyn std::error::Error>> {
    let route = |route: String, host: String, path: &str| -> Result<Route, Box<dyn std::error::Error>> {
        let to = vec![RouteTarget { service: name("web"), weight: Weight(100) }];
        let paths = vec![PathMatch::Prefix(path.into())];
        Ok(Route { paths, ..Route::new(name(&route), vec![host.parse()?], to) })
    };
    let mut routes = vec![route("bench".into(), "bench.example.com".into(), "/")?];
    for number in 0..10_000 {
        routes.push(route(format!("r{number}"), format!("h{number}.example.com"), "/api/v1")?);
    }
    let recovery = Recovery { hold_down: Span::default(), ..Recovery::default() };
    let domain = Domain { check: None, recovery, ..testing::domain() };
    Ok(Sources {
        checks: vec![],
        domains: vec![domain.into()],
        services: vec![testing::service("web")],
        routes,
        ..testing::sources(3, 0)
    })
}
