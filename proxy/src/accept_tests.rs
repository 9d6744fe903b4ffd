//! Connections over real sockets to workers that are threads, as in a gateway.

use std::{
    collections::BTreeMap,
    io::Read as _,
    sync::{Mutex, mpsc},
    thread::JoinHandle,
    time::Instant,
};

use super::*;
use crate::{
    config::{Listener, Networks},
    listen::open,
};

/// Workers that keep their connections, and write the number of the worker to each.
struct Workers {
    address: SocketAddr,
    places: Arc<Places>,
    metrics: Arc<Metrics>,
    entrance: Option<Entrance>,
    threads: Vec<JoinHandle<()>>,
    /// A worker that gets such a channel blocks its thread until something comes through it.
    block: Arc<Mutex<BTreeMap<u8, mpsc::Receiver<()>>>>,
}

impl Workers {
    fn start(workers: usize, listener: Listener, most: usize, most_per_client: usize) -> Self {
        let metrics: Arc<Metrics> = Arc::default();
        let bound = open(&[listener], Duration::ZERO, true).unwrap();
        let address = bound[0].address;
        let places = Places::new(most, most_per_client, workers, Arc::clone(&metrics));
        let (entrance, doors) = start(bound, workers, &places, &metrics).unwrap();
        let block: Arc<Mutex<BTreeMap<u8, mpsc::Receiver<()>>>> = Arc::default();
        let thread = |(number, door): (u8, Door)| {
            let block = Arc::clone(&block);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(serve(number, door, &block));
            })
        };
        let threads = (0..).zip(doors).map(thread).collect();
        Self { address, places, metrics, entrance: Some(entrance), threads, block }
    }

    fn of(workers: usize) -> Self {
        Self::start(workers, Listener::plain("127.0.0.1:0".parse().unwrap()), 1000, 1000)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Ends the workers once they have got everything.
    fn end(mut self) {
        drop(self.entrance.take());
        self.threads.drain(..).for_each(|it| it.join().unwrap());
        assert_eq!(self.places.open(), 0);
    }
}

async fn serve(number: u8, door: Door, block: &Mutex<BTreeMap<u8, mpsc::Receiver<()>>>) {
    let mut arrivals = door.open().unwrap();
    let mut kept = Vec::new();
    while let Some(mut accepted) = arrivals.next().await {
        accepted.stream.write_all(&[number]).unwrap();
        kept.push(accepted);
        let blocked = block.lock().unwrap().remove(&number);
        if let Some(blocked) = blocked {
            // As a computation that takes long would.
            let _ = blocked.recv();
        }
    }
}

/// The worker that has a connection.
fn worker(stream: &mut TcpStream) -> u8 {
    let mut number = [0];
    stream.read_exact(&mut number).unwrap();
    number[0]
}

#[test]
fn no_worker_has_much_more_than_its_share() {
    for workers in [1, 2, 4] {
        let gateway = Workers::of(workers);
        let mut streams: Vec<_> = (0..64).map(|_| gateway.connect()).collect();
        let mut counts = vec![0; workers];
        streams.iter_mut().for_each(|it| counts[usize::from(worker(it))] += 1);
        let share = 64.0 / workers as f64;
        assert!(counts.iter().all(|it| f64::from(*it) <= 1.3 * share), "{counts:?}");
        assert_eq!((0..workers).map(|it| gateway.places.of(it)).sum::<usize>(), 64);
        gateway.end();
    }
}

#[test]
fn a_worker_that_has_more_gets_no_more_until_others_have_as_many() {
    let gateway = Workers::of(2);
    let mut streams: Vec<_> = (0..8).map(|_| gateway.connect()).collect();
    let numbers: Vec<u8> = streams.iter_mut().map(worker).collect();
    let mut numbers = numbers.iter();
    streams.retain(|_| *numbers.next().unwrap() == 0);
    // The kept connections are those of worker 0; the other still counts its own, which its peer has closed.
    let mut more: Vec<_> = (0..4).map(|_| gateway.connect()).collect();
    let zeros = more.iter_mut().map(worker).filter(|it| *it == 0).count();
    assert_eq!(zeros, 2, "a worker's connections count until it has dropped them");
    gateway.end();
}

#[test]
fn a_worker_that_is_stuck_delays_no_connection() {
    let gateway = Workers::of(2);
    let (go_on, blocked) = mpsc::channel();
    gateway.block.lock().unwrap().insert(0, blocked);
    // The worker is stuck after the first connection that it gets.
    let mut first: Vec<_> = (0..2).map(|_| gateway.connect()).collect();
    first.iter_mut().for_each(|it| assert!(worker(it) < 2));
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(worker(&mut gateway.connect()), 1);
    }
    eprintln!("20 connections beside a stuck worker: {:?}", began.elapsed());
    assert!(gateway.metrics.connections_moved.get() >= 1);
    go_on.send(()).unwrap();
    // It gets connections again, as soon as it looks.
    let deadline = Instant::now() + Duration::from_secs(10);
    while worker(&mut gateway.connect()) != 0 {
        assert!(Instant::now() < deadline, "the worker gets nothing any more");
    }
    gateway.end();
}

#[test]
fn connections_that_the_system_has_completed_are_served_at_the_end() {
    for workers in [1, 2] {
        let metrics: Arc<Metrics> = Arc::default();
        let bound = open(&[Listener::plain("127.0.0.1:0".parse().unwrap())], Duration::ZERO, true).unwrap();
        let address = bound[0].address;
        let places = Places::new(1000, 1000, workers, Arc::clone(&metrics));
        // No worker accepts yet.
        let mut streams: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
        let (entrance, doors) = start(bound, workers, &places, &metrics).unwrap();
        entrance.close();
        let serving: Vec<_> = doors
            .into_iter()
            .map(|door| {
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(serve(0, door, &Mutex::default()));
                })
            })
            .collect();
        streams.iter_mut().for_each(|it| assert_eq!(worker(it), 0));
        serving.into_iter().for_each(|it| it.join().unwrap());
        assert!(TcpStream::connect(address).is_err(), "the socket is closed");
    }
}

#[test]
fn connections_over_a_limit_are_answered_and_closed() {
    let said = |gateway: &Workers| {
        let mut said = String::new();
        gateway.connect().read_to_string(&mut said).unwrap();
        said
    };
    let here = || Listener::plain("127.0.0.1:0".parse().unwrap());
    for (workers, most, per_client) in [(1, 2, 10), (2, 2, 10), (1, 10, 2), (2, 10, 2)] {
        let gateway = Workers::start(workers, here(), most, per_client);
        let mut kept = [gateway.connect(), gateway.connect()];
        kept.iter_mut().for_each(|it| assert!(worker(it) < 2));
        let status = if most == 2 { "HTTP/1.1 503 " } else { "HTTP/1.1 429 " };
        assert!(said(&gateway).starts_with(status), "{workers} {most} {per_client}");
        let counted =
            (gateway.metrics.connections_refused.get(), gateway.metrics.connections_refused_client.get());
        assert_eq!(counted, if most == 2 { (1, 0) } else { (0, 1) });
        gateway.end();
    }
    let tls = Workers::start(2, Listener { tls: true, ..here() }, 0, 10);
    assert_eq!(said(&tls), "", "a client that speaks TLS would not understand it");
    tls.end();
    let local: Networks = [ipnet::IpNet::from(std::net::IpAddr::from([127, 0, 0, 1]))].into_iter().collect();
    let trusting = Workers::start(2, Listener { trusted_networks: local, ..here() }, 10, 1);
    let mut kept: Vec<_> = (0..5).map(|_| trusting.connect()).collect();
    kept.iter_mut().for_each(|it| assert!(worker(it) < 2));
    trusting.end();
}

#[test]
fn a_connection_has_the_address_it_was_sent_to() {
    for (listen, local) in [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.2")] {
        let bound = open(&[Listener::plain(listen.parse().unwrap())], Duration::ZERO, true).unwrap();
        let port = bound[0].address.port();
        let client = TcpStream::connect((local, port)).unwrap();
        let accepted = accept(&bound[0], 0, &Places::new(1, 1, 1, Arc::default())).unwrap().unwrap();
        assert_eq!((accepted.local, accepted.listener), (format!("{local}:{port}").parse().unwrap(), 0));
        assert_eq!(accepted.peer, client.local_addr().unwrap());
    }
}
