//! The client against servers that answer wrongly, late or not at all.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

fn config(url: String) -> Config {
    Config { url, token: None, ca_pem: None, datacenter: None }
}

fn deadlines() -> Deadlines {
    let short = Duration::from_millis(500);
    Deadlines { connect: short, plain: short, slack: short }
}

/// A server that reads a request and answers with these bytes: the next ones for the next request, and the last ones
/// for all further requests. The requests that it received are kept.
async fn server(answers: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let received: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&received);
    tokio::spawn(async move {
        let mut answers = answers.into_iter().peekable();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            kept.lock().unwrap().push(String::from_utf8_lossy(&request[..read]).into_owned());
            let answer = answers.peek().cloned().unwrap_or_default();
            if answers.len() > 1 {
                answers.next();
            }
            // The client may have disconnected.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, received)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}")
}

async fn client(answers: &[String]) -> (Consul, Arc<Mutex<Vec<String>>>) {
    let (url, received) = server(answers.to_vec()).await;
    (Consul::with_deadlines(&config(url), deadlines()).unwrap(), received)
}

const INDEX: &str = "X-Consul-Index: 7\r\n";

#[tokio::test]
async fn a_malformed_answer_is_unusable_and_the_error_names_what_was_expected() {
    for body in ["<html>a proxy's page</html>", "{", "\"text\"", "[{\"Node\":3}]", ""] {
        let (consul, _) = client(&[answer("200 OK", INDEX, body)]).await;
        let error = consul.health("orders", None).await.unwrap_err();
        assert!(matches!(error, EngineError::Unusable(_)), "{body:?}: {error:?}");
        assert!(error.to_string().contains("JSON list of instances"), "{error}");
    }
    let (consul, _) = client(&[answer("200 OK", "", "[]")]).await;
    let error = consul.health("orders", None).await.unwrap_err();
    assert!(matches!(error, EngineError::Unusable(_)), "an answer without an index: {error:?}");
}

#[tokio::test]
async fn statuses_decide_the_kind_of_error() {
    type Fits = fn(&EngineError) -> bool;
    let cases: [(&str, Fits); 6] = [
        ("500 Internal Server Error", |it| matches!(it, EngineError::Unreachable(_))),
        ("503 Service Unavailable", |it| matches!(it, EngineError::Unreachable(_))),
        ("429 Too Many Requests", |it| matches!(it, EngineError::Unreachable(_))),
        ("403 Forbidden", |it| matches!(it, EngineError::Denied(_))),
        ("400 Bad Request", |it| matches!(it, EngineError::Refused(_))),
        ("413 Payload Too Large", |it| matches!(it, EngineError::Refused(_))),
    ];
    for (status, fits) in cases {
        // The index in the answer to a failure is wrong.
        let (consul, _) = client(&[answer(status, "X-Consul-Index: 1\r\n", "the agent's text")]).await;
        let error = consul.kv_get("a", None).await.unwrap_err();
        assert!(fits(&error), "{status}: {error:?}");
        assert!(error.to_string().contains("the agent's text"), "{error}");
    }
}

#[tokio::test]
async fn a_closed_or_silent_server_is_unreachable() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let consul = Consul::with_deadlines(&config(format!("http://{closed}")), deadlines()).unwrap();
    let error = consul.services(None).await.unwrap_err();
    assert!(matches!(error, EngineError::Unreachable(_)), "{error:?}");
    // Listens, and never accepts.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let consul = Consul::with_deadlines(&config(url), deadlines()).unwrap();
    let error = consul.kv_list("a/", None).await.unwrap_err();
    assert!(matches!(error, EngineError::Unreachable(_)), "{error:?}");
    let (consul, _) = client(&["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_owned()]).await;
    let error = consul.services(None).await.unwrap_err();
    assert!(matches!(error, EngineError::Unreachable(_)), "an answer that ends early: {error:?}");
}

#[tokio::test]
async fn an_absent_key_has_an_index() {
    let (consul, _) = client(&[answer("404 Not Found", INDEX, "")]).await;
    let read = consul.kv_get("a", None).await.unwrap();
    assert_eq!((read.index, read.value), (crate::Index(7), None));
}

#[tokio::test]
async fn the_token_is_sent_in_its_header_and_never_shown() {
    let (url, received) = server(vec![answer("200 OK", INDEX, "[]")]).await;
    let token = Some(Secret::new("0d0f-secret").into());
    let consul = Consul::with_deadlines(&Config { token, ..config(url) }, deadlines()).unwrap();
    assert!(!format!("{consul:?}").contains("0d0f"));
    consul.health("a/b?c", None).await.unwrap();
    let received = received.lock().unwrap()[0].clone();
    assert!(received.to_lowercase().contains("x-consul-token: 0d0f-secret"), "{received}");
    assert!(received.starts_with("GET /v1/health/service/a%2Fb%3Fc"), "a name stays one segment: {received}");
    assert!(!received.lines().next().unwrap().contains("0d0f"), "{received}");
}

/// A server that leads and has not read its log yet: it knows of nothing, and says so unless it is asked for all that was
/// committed. The session with this id is known to it after that.
async fn starting(session: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..read]).into_owned();
                let line = text.lines().next().unwrap_or_default();
                let says = if line.contains("/v1/session/info/") {
                    let list = if line.contains(session) {
                        format!("[{{\"ID\":{session:?}}}]")
                    } else {
                        "[]".to_owned()
                    };
                    answer("200 OK", INDEX, &list)
                } else if line.contains("consistent") {
                    let text = "rpc error: Not ready to serve consistent reads";
                    answer("500 Internal Server Error", "", text)
                } else if line.contains("/v1/kv/") || line.starts_with("PUT ") {
                    answer("404 Not Found", INDEX, "no such thing")
                } else {
                    let nothing = if line.contains("catalog/services") { "{}" } else { "[]" };
                    answer("200 OK", INDEX, nothing)
                };
                let _ = stream.write_all(says.as_bytes()).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn a_server_that_has_not_read_its_log_is_not_taken_for_empty() {
    let url = starting("none").await;
    let consul = Consul::with_deadlines(&config(url), deadlines()).unwrap();
    let wait = Some(Wait { after: crate::Index(9), at_most: Duration::from_millis(100) });
    for wait in [None, wait] {
        let reads = [
            ("a key", consul.kv_get("a", wait).await.err()),
            ("a prefix", consul.kv_list("a/", wait).await.err()),
            ("the names of keys", consul.kv_keys("a/").await.err()),
            ("the services", consul.services(wait).await.err()),
            ("the instances of one", consul.health("orders", wait).await.err()),
            ("the sessions", consul.sessions().await.err()),
        ];
        for (what, error) in reads {
            assert!(matches!(error, Some(EngineError::Unreachable(_))), "{what}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_watch_of_a_server_that_has_not_read_its_log_reports_an_outage() {
    let url = starting("none").await;
    let consul = Arc::new(Consul::with_deadlines(&config(url), deadlines()).unwrap());
    // More than have a long poll of their own, so that some are followed by what all share.
    let names: std::collections::BTreeSet<String> =
        (0..client::OWN_POLLS + 8).map(|n| format!("s{n}")).collect();
    let (_in_use, receiver) = tokio::sync::watch::channel(Arc::new(names.clone()));
    let mut changes = Engine::watch(consul, receiver);
    let mut reported = std::collections::BTreeSet::new();
    while reported != names {
        let change = tokio::time::timeout(Duration::from_secs(30), changes.recv()).await.unwrap().unwrap();
        assert!(matches!(change.reading, crate::Reading::Unreachable(_)), "{change:?}");
        reported.insert(change.service);
    }
}

#[tokio::test]
async fn a_session_that_a_starting_server_does_not_know_yet_is_not_lost() {
    let url = starting("kept").await;
    let consul = Consul::with_deadlines(&config(url), deadlines()).unwrap();
    let renewed = consul.session_renew(&SessionId("kept".to_owned())).await;
    assert!(matches!(renewed, Err(EngineError::Unreachable(_))), "{renewed:?}");
    assert_eq!(consul.session_renew(&SessionId("ended".to_owned())).await, Ok(false));
}

#[test]
fn what_cannot_be_used_is_refused_at_the_start() {
    for url in ["", "127.0.0.1:8500", "ftp://127.0.0.1", "http://"] {
        assert!(matches!(Consul::new(&config(url.to_owned())), Err(EngineError::Refused(_))), "{url:?}");
    }
}
