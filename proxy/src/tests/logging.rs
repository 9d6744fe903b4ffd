//! The access log of a running gateway.

use super::{
    instances::Instance,
    world::{World, alone},
};
use crate::{AccessLog, LogTarget, testing::eventually};

/// A gateway with an access log, and the log's file.
async fn logged(instances: &[&Instance]) -> (World, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let target = LogTarget::File(folder.path().join("access.log"));
    let endpoints: Vec<_> = instances.iter().map(|it| it.endpoint.clone()).collect();
    let world = World::start_logging(alone(|_| {}), AccessLog::to(target), &endpoints).await;
    (world, folder)
}

fn lines(folder: &tempfile::TempDir) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.path().join("access.log")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn every_request_has_a_line_that_tells_what_became_of_it() {
    let web = Instance::new("web-1").await;
    let (world, folder) = logged(&[&web]).await;
    let mut client = world.client().await;
    let post = "POST /echo?a=b HTTP/1.1\r\nHost: web.example.com\r\nUser-Agent: test \"1\"\r\n\
                Content-Length: 5\r\n\r\nhello";
    assert_eq!(client.ask(post).await.status, 200);
    assert_eq!(client.get("nowhere.example.com", "/x").await.status, 404);
    assert_eq!(client.get("shop.example.com", "/").await.status, 503);
    client.send("broken\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
    eventually("the lines are there", || lines(&folder).len() >= 4).await;
    let lines = lines(&folder);
    let of = |line: usize, key: &str| lines[line][key].clone();
    assert_eq!(
        (of(0, "method"), of(0, "path"), of(0, "query")),
        ("POST".into(), "/echo".into(), "a=*".into())
    );
    assert_eq!(
        (of(0, "status"), of(0, "service"), of(0, "instance")),
        (200.into(), "web".into(), "web-1".into())
    );
    assert_eq!((of(0, "bytes_in"), of(0, "bytes_out"), of(0, "attempts")), (5.into(), 5.into(), 1.into()));
    assert_eq!(of(0, "user_agent"), "test \"1\"");
    assert!(of(0, "pick_ms").is_number() && of(0, "first_byte_ms").is_number(), "{}", lines[0]);
    assert_eq!(
        (of(3, "status"), of(3, "reason"), of(3, "client")),
        (400.into(), "bad_request".into(), "127.0.0.1".into())
    );
    assert!(of(1, "bytes_out").as_u64() > Some(0), "{}", lines[1]);
    assert_eq!((of(1, "status"), of(1, "reason")), (404.into(), "no_route".into()));
    assert_eq!(
        (of(2, "status"), of(2, "reason"), of(2, "service")),
        (503.into(), "no_instance".into(), "shop".into())
    );
}

#[tokio::test]
async fn what_was_not_served_well_is_logged_whatever_the_sample() {
    let bad =
        Instance::saying("bad", "HTTP/1.1 500 Bad\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad")
            .await;
    let folder = tempfile::tempdir().unwrap();
    let target = LogTarget::File(folder.path().join("access.log"));
    let log = AccessLog { sample: 0, ..AccessLog::to(target) };
    let world = World::start_logging(alone(|_| {}), log, std::slice::from_ref(&bad.endpoint)).await;
    let mut client = world.client().await;
    client.send("broken\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
    assert_eq!(world.get("/").await.0, 500);
    eventually("both are there", || lines(&folder).len() == 2).await;
    let lines = lines(&folder);
    assert_eq!((&lines[0]["status"], &lines[0]["reason"]), (&400.into(), &"bad_request".into()));
    assert_eq!((&lines[0]["client"], &lines[1]["status"]), (&"127.0.0.1".into(), &500.into()));
}

#[tokio::test]
async fn a_routes_word_about_the_log_holds_for_all_its_answers() {
    let (world, folder) = logged(&[]).await;
    let direct_response =
        store::model::DirectResponse { status: 200, content_type: "text/plain".into(), body: "ok".into() };
    let direct = |access_log: Option<bool>, host: &str| store::model::Route {
        direct_response: Some(Box::new(direct_response.clone())),
        access_log,
        to: Vec::new(),
        ..store::model::Route::new(
            crate::testing::name(host),
            vec![format!("{host}.example.com").parse().unwrap()],
            vec![],
        )
    };
    let routes = vec![direct(Some(false), "quiet"), direct(None, "usual")];
    let sources = store::model::Sources { routes, ..crate::testing::sources() };
    world.publisher.publish_snapshot(crate::testing::snapshot(sources));
    let mut client = world.client().await;
    while client.get("usual.example.com", "/").await.status != 200 {}
    for host in ["quiet", "usual", "quiet"] {
        assert_eq!(client.get(&format!("{host}.example.com"), "/").await.status, 200);
    }
    client.get("usual.example.com", "/last").await;
    eventually("the last one is there", || lines(&folder).iter().any(|it| it["path"] == "/last")).await;
    assert!(lines(&folder).iter().all(|it| it["host"] == "usual.example.com"));
    assert!(lines(&folder).iter().any(|it| it["route"] == "usual"));
}

#[tokio::test]
async fn the_octets_of_another_protocol_are_counted() {
    let serve = |mut stream: tokio::net::TcpStream, _| async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        super::instances::read_head(&mut stream).await;
        let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
        let _ = stream.write_all(head).await;
        let _ = stream.read_exact(&mut [0; 5]).await;
        let _ = stream.write_all(b"seven..").await;
    };
    let web = Instance::scripted("web-1", serve).await;
    let (world, folder) = logged(&[&web]).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web.example.com\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 101);
    client.send("five.").await;
    drop(client);
    eventually("the line is there", || lines(&folder).len() == 1).await;
    let line = lines(&folder).remove(0);
    assert_eq!((&line["bytes_in"], &line["status"]), (&5.into(), &101.into()), "{line}");
}
