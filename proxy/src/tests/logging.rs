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
    eventually("the lines are there", || lines(&folder).len() >= 3).await;
    let lines = lines(&folder);
    let of = |line: usize, key: &str| lines[line][key].clone();
    assert_eq!(
        (of(0, "method"), of(0, "path"), of(0, "query")),
        ("POST".into(), "/echo".into(), "a=b".into())
    );
    assert_eq!(
        (of(0, "status"), of(0, "service"), of(0, "instance")),
        (200.into(), "web".into(), "web-1".into())
    );
    assert_eq!((of(0, "bytes_in"), of(0, "bytes_out"), of(0, "attempts")), (5.into(), 5.into(), 1.into()));
    assert_eq!(of(0, "user_agent"), "test \"1\"");
    assert_eq!((of(1, "status"), of(1, "reason")), (404.into(), "no_route".into()));
    assert_eq!(
        (of(2, "status"), of(2, "reason"), of(2, "service")),
        (503.into(), "no_instance".into(), "shop".into())
    );
}
