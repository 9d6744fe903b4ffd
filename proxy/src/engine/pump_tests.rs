//! Pumps between real sockets.

use std::{
    io::{Read as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Wake, Waker},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

use super::*;

const LENGTH: usize = 16 * LARGE;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Two ends of a connection whose buffers hold the whole body.
fn pair() -> (std::net::TcpStream, Stream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 * LENGTH).unwrap();
    socket.set_send_buffer_size(4 * LENGTH).unwrap();
    socket.connect(&listener.local_addr().unwrap().into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    (listener.accept().unwrap().0, Stream::Plain(TcpStream::from_std(socket.into()).unwrap()))
}

#[tokio::test]
async fn a_body_whose_ends_keep_up_lets_others_have_their_turn() {
    let ((mut source, mut from), (mut sink, mut to)) = (pair(), pair());
    let body: Vec<u8> = (0..LENGTH).map(|at| at as u8).collect();
    let writing = std::thread::spawn(move || source.write_all(&body).map(|()| (source, body)));
    let reading = std::thread::spawn(move || {
        let mut got = vec![0; LENGTH];
        sink.read_exact(&mut got).map(|()| got)
    });
    let (buffers, mut input) = (Buffers::default(), None);
    let mut pump = Pump::new(Vec::new(), Source::Sized(LENGTH as u64), Sink::Plain);
    let mut turns = 0;
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    loop {
        let (before, wakes) = (pump.passed, woken.0.load(Relaxed));
        // The runtime's own budget would end a turn too, but far later.
        let polled = tokio::task::unconstrained(std::future::poll_fn(|_| {
            let mut cx = Context::from_waker(&waker);
            Poll::Ready(pump.poll(&mut cx, (Some(&mut from), &mut input), &mut to, &buffers))
        }));
        let polled = polled.await;
        let passed = pump.passed - before;
        assert!(passed < TURN + LARGE as u64, "{passed} octets in one turn");
        if passed >= TURN {
            turns += 1;
            assert!(polled.is_pending() && woken.0.load(Relaxed) > wakes, "it goes on after the others");
        }
        match polled {
            Poll::Ready(ended) => break ended.unwrap(),
            Poll::Pending => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    let (_source, body) = writing.join().unwrap().unwrap();
    assert_eq!(reading.join().unwrap().unwrap(), body);
    assert!(turns > 0, "the ends kept up for a turn at least once");
}

#[tokio::test]
async fn the_last_octets_leave_with_the_end_of_the_connection() {
    let head = || Pump::new(b"all of it".to_vec(), Source::Sized(0), Sink::Plain);
    let buffers = Buffers::default();
    // What is held back leaves by itself after 200 ms; a machine may be that slow, but not always.
    let mut held = false;
    for _ in 0..20 {
        for last in [false, true] {
            let (mut sink, mut to) = pair();
            sink.set_nonblocking(true).unwrap();
            let mut pump = head().last(last);
            std::future::poll_fn(|cx| pump.poll(cx, (None, &mut None), &mut to, &buffers)).await.unwrap();
            let mut got = [0; 20];
            let seen = sink.read(&mut got);
            assert!(last || matches!(seen, Ok(9)), "otherwise nothing is held back: {seen:?}");
            held |= last && seen.is_err();
            drop(to);
            sink.set_nonblocking(false).unwrap();
            let mut rest = Vec::new();
            sink.read_to_end(&mut rest).unwrap();
            assert_eq!(seen.unwrap_or(0) + rest.len(), 9);
        }
    }
    assert!(held);
}
