//! Keys in any case, names with slashes and odd bodies, side by side with a real agent: `spelling.json` holds what an
//! empty Consul 1.8.7 answered to these requests in this order. `$1` in a path is the first session that was created.

use serde::Deserialize;

use super::{
    replay::{compare, meant},
    *,
};

#[derive(Deserialize)]
struct Answered {
    request: String,
    status: u16,
    answer: Value,
}

/// Where ours is meant to be another answer than the captured one, and why.
fn ours_alone(answered: &Answered, difference: &str) -> bool {
    // Texts about bodies that cannot be decoded name types of Go's.
    let decoding =
        difference.contains("Request decode failed: ") || difference.contains("Failed to parse body: ");
    // Ours repeats the word that is no status.
    let status =
        answered.answer.as_str() == Some("Bad check status") && difference.contains("Bad check status");
    decoding || status || meant(difference)
}

#[tokio::test(start_paused = true)]
async fn odd_spellings_are_answered_as_a_real_agent_answered_them() {
    let engine = engine().await;
    let all: Vec<Answered> = serde_json::from_str(include_str!("spelling.json")).unwrap();
    assert!(all.len() > 150, "{}", all.len());
    let (mut sessions, mut wrong) = (Vec::<String>::new(), Vec::new());
    for answered in &all {
        let mut parts = answered.request.splitn(3, ' ');
        let (method, path) = (parts.next().unwrap(), parts.next().unwrap());
        let path = sessions
            .iter()
            .enumerate()
            .rev()
            .fold(path.to_owned(), |path, (at, id)| path.replace(&format!("${}", at + 1), id));
        let (status, ours) = ask(&engine, method, &path, parts.next().unwrap_or_default().to_owned()).await;
        let mut found = Vec::new();
        if status != answered.status {
            found.push(format!("status {status}, expected {}", answered.status));
        }
        if answered.request.starts_with("PUT /v1/session/create") && status == 200 {
            sessions.push(ours["ID"].as_str().unwrap().to_owned());
        }
        compare(&ours, &answered.answer, "", &mut found);
        found.retain(|it| !ours_alone(answered, it));
        wrong.extend(found.into_iter().map(|it| format!("{}\n    {it}", answered.request)));
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn tags_compare_without_case() {
    let engine = engine().await;
    ask(&engine, "PUT", "/v1/agent/service/register", r#"{"Name":"t","Tags":["Abc","x"]}"#).await;
    for (query, found) in [("tag=abc", 1), ("tag=ABC&tag=X", 1), ("tag=ab", 0)] {
        for path in ["health", "catalog"] {
            let (_, listed) = ask(&engine, "GET", &format!("/v1/{path}/service/t?{query}"), "").await;
            assert_eq!(listed.as_array().unwrap().len(), found, "{path} {query}");
        }
    }
}

/// What `py-consul`, `python-consul` and Patroni rely on: a lock whose holder died is free again.
#[tokio::test(start_paused = true)]
async fn a_session_of_lower_case_keys_expires_and_takes_its_keys_along() {
    let engine = engine().await;
    let (_, made) = ask(&engine, "PUT", "/v1/session/create", r#"{"ttl":"10s","behavior":"delete"}"#).await;
    let id = made["ID"].as_str().unwrap();
    assert_eq!(
        ask(&engine, "PUT", &format!("/v1/kv/service/leader?acquire={id}"), "n1").await.1,
        json!(true)
    );
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(ask(&engine, "GET", "/v1/kv/service/leader", "").await.0, 200);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(ask(&engine, "GET", "/v1/kv/service/leader", "").await.0, 404);
    assert_eq!(ask(&engine, "GET", &format!("/v1/session/info/{id}"), "").await.1, json!([]));
}
