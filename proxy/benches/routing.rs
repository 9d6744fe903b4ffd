//! What a look-up of a route costs, and what one changed route costs, among few and many routes.
//!
//! `cargo bench -p proxy --bench routing --features fuzzing`

#![allow(clippy::print_stdout, clippy::cast_precision_loss, missing_docs, reason = "a benchmark")]

use std::{
    fs,
    hint::black_box,
    time::{Duration, Instant},
};

use proxy::fuzzing::Routing;

const LOOK_UPS: usize = 400_000;
const CHANGES: usize = 1_000;

/// The memory of this process, in bytes.
fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|it| it.parse::<f64>().ok());
    pages.unwrap_or_default() * 4096.0
}

/// Nanoseconds of a look-up, over routes in an order that no cache foresees: the least of five rounds.
fn look_ups(routing: &Routing, asked: &[(String, String)]) -> f64 {
    let round = || {
        let start = Instant::now();
        let mut at = 0;
        for _ in 0..LOOK_UPS {
            at = (at + 7_919) % asked.len();
            let (host, path) = &asked[at];
            assert!(black_box(routing.finds(host, path)));
        }
        start.elapsed()
    };
    let least = (0..5).map(|_| round()).min().unwrap_or(Duration::ZERO);
    least.as_nanos() as f64 / LOOK_UPS as f64
}

fn main() {
    println!("routes  hosts  look-up  same route  change p50  p99  most  compiled in  bytes a route");
    for one_host in [false, true] {
        for routes in [100, 10_000, 50_000] {
            let before = resident();
            let start = Instant::now();
            let mut routing = Routing::new(routes, one_host);
            let compiled = start.elapsed();
            let bytes = (resident() - before) / routes as f64;
            let below = |(host, path): (String, String)| (host, format!("{path}/items/7"));
            let asked: Vec<_> = (0..routes).map(|at| below(Routing::place(at, one_host))).collect();
            let (any, same) = (look_ups(&routing, &asked), look_ups(&routing, &asked[..1]));
            let mut times = Vec::new();
            for change in 0..CHANGES {
                routing.change((change * 7_919) % routes, one_host, change, |call| {
                    let start = Instant::now();
                    call();
                    times.push(start.elapsed());
                });
            }
            times.sort();
            let hosts = if one_host { 1 } else { routes };
            let (p50, p99, most) = (times[CHANGES / 2], times[CHANGES * 99 / 100], times[CHANGES - 1]);
            println!(
                "{routes:6} {hosts:6} {any:5.0} ns {same:8.0} ns {p50:10.1?} {p99:9.1?} {most:9.1?} {compiled:9.1?} {bytes:6.0}"
            );
        }
    }
}
