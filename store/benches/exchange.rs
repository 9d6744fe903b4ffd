//! What the exchange of instances between sites costs: bytes and messages, with generated registries.
//!
//! Three sites tell one another of 9,000 services with 10 instances each, while 100 instances a second change at each site.
//! Every site has an engine in memory, a writer for each other site, and one node that follows all of them. What HTTP and
//! the engine's own protocol add is not in the figures.
//!
//! `cargo bench -p store --bench exchange [-- SECONDS]`

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use store::{
    engine::{
        CheckStatus, KvOp,
        embedded::{Embedded, Options},
        follower::{Follower, News, Watched},
    },
    keys,
    model::Name,
    remote::{Instance, MAX_PAGE, Page, RemoteMetrics, Teller, Told, Value, Writer, reader},
};

const SITES: usize = 3;
const SERVICES: usize = 9_000;
const INSTANCES: usize = 10;
const CHANGES_A_SECOND: u64 = 100;

fn name(site: usize) -> Name {
    format!("site-{site}").parse().unwrap()
}

fn instance(site: usize, service: usize, number: usize) -> Instance {
    let host = (service * 7 + number * 131) % 2_000;
    Instance {
        node: format!("node-{host:04}.{}", name(site)),
        id: format!("api-{service:05}-{number}"),
        address: format!("10.{site}.{}.{}", host / 250, host % 250),
        port: 20_000 + u16::try_from(service % 10_000).unwrap(),
        status: CheckStatus::Passing,
        weight: 1,
        meta: [
            ("boot".to_owned(), format!("{:016x}", service * 31 + number)),
            ("version".to_owned(), format!("1.{}.{}", service % 40, number)),
        ]
        .into(),
        tags: vec!["http".to_owned()],
        maintenance: false,
    }
}

fn service(service: usize) -> String {
    format!("api-{service:05}")
}

/// What the messages of one link had.
#[derive(Debug, Default)]
struct Link {
    pages: AtomicU64,
    bytes: AtomicU64,
}

impl Link {
    fn take(&self) -> (u64, u64) {
        (self.pages.swap(0, Ordering::Relaxed), self.bytes.swap(0, Ordering::Relaxed))
    }
}

struct Site {
    teller: Teller,
    engine: Arc<Embedded>,
    metrics: Arc<RemoteMetrics>,
    instances: BTreeMap<String, Vec<Instance>>,
}

impl Site {
    async fn new(site: usize) -> Self {
        let instances: BTreeMap<_, Vec<_>> = (0..SERVICES)
            .map(|it| (service(it), (0..INSTANCES).map(|number| instance(site, it, number)).collect()))
            .collect();
        let metrics: Arc<RemoteMetrics> = Arc::default();
        let teller = Teller::new(&format!("boot-{site}"), Arc::clone(&metrics));
        let told = instances.iter().map(|(name, all)| (name.clone(), Some(told(all))));
        teller.tell(told.collect::<Vec<_>>());
        Self { teller, engine: Embedded::in_memory(Options::default()).await, metrics, instances }
    }

    /// One instance changes its health.
    fn change(&mut self, number: u64) {
        let at = usize::try_from(number).unwrap() * 7_919 % (SERVICES * INSTANCES);
        let name = service(at / INSTANCES);
        let all = self.instances.get_mut(&name).unwrap();
        let one = &mut all[at % INSTANCES];
        one.status = match one.status {
            CheckStatus::Passing => CheckStatus::Critical,
            _ => CheckStatus::Passing,
        };
        let told = told(all);
        self.teller.tell([(name, Some(told))]);
    }
}

fn told(instances: &[Instance]) -> Told {
    Told { value: Value::Present, reason: String::new(), instances: instances.to_vec() }
}

/// The control of one site pulls from another, as over HTTP.
async fn pull(teller: Teller, mut writer: Writer, link: Arc<Link>) {
    let fence = KvOp::Set { key: "waypost/fence".to_owned(), value: "x".into() };
    loop {
        let cursor = writer.cursor().await.unwrap();
        teller.wait_for_news(cursor.as_ref()).await;
        let page = serde_json::to_vec(&teller.answer(cursor.as_ref(), MAX_PAGE).unwrap()).unwrap();
        link.pages.fetch_add(1, Ordering::Relaxed);
        link.bytes.fetch_add(page.len() as u64, Ordering::Relaxed);
        writer.take(Page::read(&page).unwrap(), &fence, &|_| true).await.unwrap();
    }
}

/// What a node read.
#[derive(Debug, Default)]
struct Read {
    wakes: AtomicU64,
    head_bytes: AtomicU64,
    values: AtomicU64,
    bytes: AtomicU64,
    wholes: AtomicU64,
}

/// A node follows the other sites in its engine.
async fn follow(engine: Arc<Embedded>, read: Arc<Read>) {
    let watched = Watched::Prefix(keys::REMOTE_HEADS.to_owned());
    let mut follower = Follower::new(Arc::clone(&engine) as _, watched, Duration::from_secs(45));
    let mut copies: BTreeMap<Name, reader::Copy> = BTreeMap::new();
    loop {
        let News::Read(reading) = follower.next().await else { continue };
        read.wakes.fetch_add(1, Ordering::Relaxed);
        for entry in &reading.read.value {
            read.head_bytes.fetch_add(entry.value.len() as u64, Ordering::Relaxed);
            let (site, head) = reader::head_of(entry).unwrap();
            let mut copy = copies.remove(&site).unwrap_or_default();
            let before = (copy.reads, copy.bytes);
            if reader::advance(engine.as_ref(), &site, &mut copy, &head).await.unwrap().is_some() {
                read.values.fetch_add(copy.reads - before.0, Ordering::Relaxed);
                read.bytes.fetch_add(copy.bytes - before.1, Ordering::Relaxed);
            } else if let Some(whole) = reader::load(engine.as_ref(), &site).await.unwrap() {
                read.wholes.fetch_add(1, Ordering::Relaxed);
                copy = whole;
            }
            copies.insert(site, copy);
        }
    }
}

/// The instances in the order of their names: they are told in another one.
fn by_id(instances: &[Instance]) -> BTreeMap<&str, &Instance> {
    instances.iter().map(|it| (it.id.as_str(), it)).collect()
}

/// Seconds of processor time of this process.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

#[tokio::main]
async fn main() {
    let seconds = std::env::args().skip(1).find_map(|it| it.parse().ok()).unwrap_or(60_u64);
    let mut sites = Vec::new();
    for site in 0..SITES {
        sites.push(Site::new(site).await);
    }
    let began = (Instant::now(), processor());
    let mut links = Vec::new();
    let mut reads = Vec::new();
    for (to, site) in sites.iter().enumerate() {
        for from in (0..SITES).filter(|it| *it != to) {
            let link: Arc<Link> = Arc::default();
            let writer = Writer::new(Arc::clone(&site.engine) as _, name(from), Arc::clone(&site.metrics));
            tokio::spawn(pull(sites[from].teller.clone(), writer, Arc::clone(&link)));
            links.push(link);
        }
    }
    for site in &sites {
        while site.metrics.bases_written.get() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let (pages, bytes) = links[0].take();
    println!("the whole of one site, once: {pages} pages, {:.1} MB", bytes as f64 / 1e6);
    let written = sites[0].metrics.bytes_written.get() / 2;
    println!("  written to the engine: {:.1} MB", written as f64 / 1e6);
    println!(
        "  all six links: {:.1} s, {:.1} s of processor",
        began.0.elapsed().as_secs_f64(),
        processor() - began.1
    );
    for site in &sites {
        let read: Arc<Read> = Arc::default();
        tokio::spawn(follow(Arc::clone(&site.engine), Arc::clone(&read)));
        reads.push(read);
    }
    while reads.iter().any(|it| it.wholes.load(Ordering::Relaxed) < 2) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let whole = reader::load(sites[0].engine.as_ref(), &name(1)).await.unwrap().unwrap();
    println!(
        "a node that starts reads of each site: {} values, {:.1} MB",
        whole.reads,
        whole.bytes as f64 / 1e6
    );

    let before: Vec<_> =
        sites.iter().map(|it| (it.metrics.bytes_written.get(), it.metrics.batches_written.get())).collect();
    links.iter().for_each(|it| {
        it.take();
    });
    let started: Vec<_> = reads
        .iter()
        .map(|it| [&it.wakes, &it.head_bytes, &it.values, &it.bytes].map(|it| it.load(Ordering::Relaxed)))
        .collect();
    let (start, used) = (Instant::now(), processor());
    let mut every = tokio::time::interval(Duration::from_millis(1_000 / CHANGES_A_SECOND));
    for number in 0..seconds * CHANGES_A_SECOND {
        every.tick().await;
        sites.iter_mut().for_each(|it| it.change(number));
    }
    let (took, used) = (start.elapsed().as_secs_f64(), processor() - used);
    println!("{CHANGES_A_SECOND} changes a second at each of {SITES} sites, {took:.0} s; a second:");
    let (pages, bytes) = links[0].take();
    println!(
        "  each link between two sites: {:.1} pages, {:.1} kB",
        pages as f64 / took,
        bytes as f64 / took / 1e3
    );
    let (bytes, batches) = (
        sites[0].metrics.bytes_written.get() - before[0].0,
        sites[0].metrics.batches_written.get() - before[0].1,
    );
    println!(
        "  written to each engine, of both others: {:.1} batches, {:.1} kB with shards that fall due",
        batches as f64 / took,
        bytes as f64 / took / 1e3
    );
    let [wakes, heads, values, bytes] =
        [&reads[0].wakes, &reads[0].head_bytes, &reads[0].values, &reads[0].bytes]
            .map(|it| it.load(Ordering::Relaxed));
    println!(
        "  read by each node, of both others: {:.1} answers of the long poll with {:.1} kB, {:.1} batches with {:.1} kB",
        (wakes - started[0][0]) as f64 / took,
        (heads - started[0][1]) as f64 / took / 1e3,
        (values - started[0][2]) as f64 / took,
        (bytes - started[0][3]) as f64 / took / 1e3
    );
    let wholes: u64 = reads.iter().map(|it| it.wholes.load(Ordering::Relaxed)).sum();
    println!("  everything was read again {} times", wholes - 6);
    println!("  processor time of all of this in one process: {:.1} %", used / took * 100.0);
    for site in 0..SITES {
        let copy =
            reader::load(sites[(site + 1) % SITES].engine.as_ref(), &name(site)).await.unwrap().unwrap();
        let behind = sites[site]
            .instances
            .iter()
            .filter(|(name, all)| {
                let has = |it: &Arc<Told>| by_id(&it.instances) == by_id(all);
                !copy.state.get(name).is_some_and(has)
            })
            .count();
        println!("  services of site {site} that its neighbour has not read yet: {behind}");
    }
}
