//! What is tried again, and what must not be.

use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;

use super::{
    instances::{Instance, nobody, read_head},
    world::{World, alone},
};
use crate::testing::eventually;

/// An instance that reads a request whole enough to have taken it, and then hangs up without a word.
async fn hangs_up(id: &str) -> (Instance, Arc<Mutex<usize>>) {
    let heads = Arc::new(Mutex::new(0));
    let count = Arc::clone(&heads);
    let serve = move |mut stream: tokio::net::TcpStream, _| {
        let count = Arc::clone(&count);
        async move {
            read_head(&mut stream).await;
            *count.lock().unwrap() += 1;
        }
    };
    (Instance::scripted(id, serve).await, heads)
}

#[tokio::test]
async fn nothing_sent_is_tried_again_whatever_the_method() {
    for method in ["GET", "POST", "DELETE", "PATCH"] {
        let good = Instance::new("good").await;
        let world = World::start(alone(|_| {}), &[nobody("bad").await, good.endpoint.clone()]).await;
        for _ in 0..10 {
            let mut client = world.client().await;
            let body = if method == "GET" { "" } else { "hello" };
            let request = format!(
                "{method} / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let answer = client.ask(&request).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "{method}");
        }
        assert!(
            good.taken.lock().unwrap().iter().all(|it| it.body == if method == "GET" { "" } else { "hello" })
        );
        assert!(world.metrics().connect_failures.get() > 0, "the bad one was met");
    }
}

#[tokio::test]
async fn what_was_sent_is_tried_again_only_when_that_is_harmless() {
    for (method, again) in
        [("GET", true), ("HEAD", true), ("OPTIONS", true), ("POST", false), ("PUT", false), ("DELETE", false)]
    {
        let (bad, met) = hangs_up("bad").await;
        let good = Instance::new("good").await;
        let world = World::start(
            alone(|limits| limits.eject_after = 100),
            &[bad.endpoint.clone(), good.endpoint.clone()],
        )
        .await;
        while *met.lock().unwrap() == 0 {
            let before = good.count();
            let mut client = world.client().await;
            let request =
                format!("{method} / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 0\r\n\r\n");
            let answer = client.ask(&request).await;
            let failed = *met.lock().unwrap() > 0 && !again;
            assert_eq!(answer.status, if failed { 502 } else { 200 }, "{method}");
            assert_eq!(good.count() - before, usize::from(!failed), "{method}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_is_not_started_over() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nthe beginning";
    let bad = Instance::saying("bad", half).await;
    let world = World::of(&[&bad]).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n").await;
    let answer = client.answer_to(false).await;
    assert!(answer.is_err(), "a cut answer must look cut: {answer:?}");
}

#[tokio::test]
async fn a_small_answer_that_is_cut_off_is_fetched_from_another() {
    let bad = Instance::saying("bad", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nthe beginning").await;
    let good = Instance::new("good").await;
    let world = World::start(
        alone(|limits| limits.eject_after = 100),
        &[bad.endpoint.clone(), good.endpoint.clone()],
    )
    .await;
    while bad.accepted() == 0 {
        assert_eq!(world.get("/").await, (200, "good".into()));
    }
}

#[tokio::test]
async fn an_instance_killed_under_load_fails_nothing() {
    let instances = [Instance::new("a").await, Instance::new("b").await, Instance::new("c").await];
    let world = World::of(&instances.iter().collect::<Vec<_>>()).await;
    let address = world.address();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut client = super::client::Client::connect(address).await;
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let answer = client.get("web.example.com", "/").await;
                    assert_eq!(answer.status, 200);
                    count += 1;
                }
                count
            })
        })
        .collect();
    eventually("some load", || instances.iter().all(|it| it.count() > 50)).await;
    let [first, second, third] = instances;
    first.kill().await;
    let before = second.count();
    eventually("load after the death", || second.count() > before + 200).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    drop(third);
}

#[tokio::test]
async fn an_instance_that_says_nothing_in_time_is_a_504() {
    let serve = |stream: tokio::net::TcpStream, _| async move {
        let mut stream = stream;
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
        drop(stream.shutdown().await);
    };
    let silent = Instance::scripted("silent", serve).await;
    let config = alone(|limits| limits.response_timeout = std::time::Duration::from_millis(100));
    let world = World::start(config, std::slice::from_ref(&silent.endpoint)).await;
    let mut client = world.client().await;
    let answer = client.ask("POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(answer.status, 504, "{}", answer.text());
}
