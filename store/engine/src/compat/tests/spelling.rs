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

/// Where our answer intentionally differs from the captured one, and why.
fn ours_alone(answered: &Answered, difference: &str) -> bool {
    // Messages about bodies that cannot be decoded name types of Go.
    let decoding =
        difference.contains("Request decode failed: ") || difference.contains("Failed to parse body: ");
    // Ours repeats the text that is not a status.
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
        let (status, ours) = send(&engine, method, &path, parts.next().unwrap_or_default().to_owned()).await;
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
    send(&engine, "PUT", "/v1/agent/service/register", r#"{"Name":"t","Tags":["Abc","x"]}"#).await;
    for (query, found) in [("tag=abc", 1), ("tag=ABC&tag=X", 1), ("tag=ab", 0)] {
        for path in ["health", "catalog"] {
            let (_, listed) = send(&engine, "GET", &format!("/v1/{path}/service/t?{query}"), "").await;
            assert_eq!(listed.as_array().unwrap().len(), found, "{path} {query}");
        }
    }
}

/// What `py-consul`, `python-consul` and Patroni rely on: a lock whose holder died is free again.
#[tokio::test(start_paused = true)]
async fn a_session_of_lower_case_keys_expires_and_takes_its_keys_along() {
    let engine = engine().await;
    let (_, made) = send(&engine, "PUT", "/v1/session/create", r#"{"ttl":"10s","behavior":"delete"}"#).await;
    let id = made["ID"].as_str().unwrap();
    assert_eq!(
        send(&engine, "PUT", &format!("/v1/kv/service/leader?acquire={id}"), "n1").await.1,
        json!(true)
    );
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(send(&engine, "GET", "/v1/kv/service/leader", "").await.0, 200);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(send(&engine, "GET", "/v1/kv/service/leader", "").await.0, 404);
    assert_eq!(send(&engine, "GET", &format!("/v1/session/info/{id}"), "").await.1, json!([]));
}

/// As Consul 1.8.7 showed these sessions after it had made them.
#[tokio::test(start_paused = true)]
async fn sessions_read_back_as_they_were_made() {
    let engine = engine().await;
    const DEFAULT: u64 = 15_000_000_000;
    for (body, ttl, delay) in [
        (r#"{"TTL":"15.0s"}"#, "15.0s", DEFAULT),
        (r#"{"TTL":"90s"}"#, "90s", DEFAULT),
        (r#"{"TTL":"+15s"}"#, "+15s", DEFAULT),
        (r#"{"TTL":"0"}"#, "0", DEFAULT),
        (r#"{"lockdelay":1.5}"#, "", 1_000_000_000),
        (r#"{"lockdelay":999.5}"#, "", 999_000_000_000),
        (r#"{"lockdelay":1000.5}"#, "", 1_000),
        (r#"{"lockdelay":1e1}"#, "", 10_000_000_000),
        (r#"{"lockdelay":"90s"}"#, "", 90_000_000_000),
        // A real agent shows a negative delay, and does not delay either.
        (r#"{"lockdelay":"-1s"}"#, "", 0),
        (r#"{"lockdelay":-2000}"#, "", 0),
    ] {
        let (status, made) = send(&engine, "PUT", "/v1/session/create", body).await;
        assert_eq!(status, 200, "{body}: {made}");
        let path = format!("/v1/session/info/{}", made["ID"].as_str().unwrap());
        let (_, shown) = send(&engine, "GET", &path, "").await;
        assert_eq!((&shown[0]["TTL"], &shown[0]["LockDelay"]), (&json!(ttl), &json!(delay)), "{body}");
    }
    for (body, status) in
        [(r#"{"TTL":" 15s"}"#, 500), (r#"{"TTL":"-15s"}"#, 500), (r#"{"lockdelay":"x"}"#, 400)]
    {
        assert_eq!(send(&engine, "PUT", "/v1/session/create", body).await.0, status, "{body}");
    }
}

/// `py-consul` sends Python's `True` and `False`.
#[tokio::test]
async fn maintenance_is_switched_by_every_boolean_of_go() {
    let engine = engine().await;
    send(&engine, "PUT", "/v1/agent/service/register", r#"{"Name":"web","ID":"web/1"}"#).await;
    for path in ["/v1/agent/service/maintenance/web%2F1", "/v1/agent/maintenance"] {
        for words in
            [["True", "False"], ["TRUE", "FALSE"], ["T", "F"], ["t", "f"], ["1", "0"], ["true", "false"]]
        {
            for (word, in_maintenance) in words.into_iter().zip([true, false]) {
                let (status, answer) = send(&engine, "PUT", &format!("{path}?enable={word}"), "").await;
                assert_eq!(status, 200, "{word}: {answer}");
                let (_, checks) = send(&engine, "GET", "/v1/agent/checks", "").await;
                assert_eq!(!checks.as_object().unwrap().is_empty(), in_maintenance, "{path} {word}");
            }
        }
        for word in ["", "yes", "tRUE"] {
            assert_eq!(send(&engine, "PUT", &format!("{path}?enable={word}"), "").await.0, 400, "{word}");
        }
    }
}

/// The semaphore of Consul's client marks its keys with flags above 2^63.
#[tokio::test]
async fn flags_and_indexes_of_transactions_have_64_bits() {
    let engine = engine().await;
    let set = |flags: &str| format!(r#"[{{"kv":{{"verb":"set","key":"a","value":"","flags":{flags}}}}}]"#);
    for flags in [u64::MAX, 1 << 63] {
        let (status, done) = send(&engine, "PUT", "/v1/txn", set(&flags.to_string())).await;
        assert_eq!((status, &done["Results"][0]["KV"]["Flags"]), (200, &json!(flags)));
    }
    for wrong in ["18446744073709551616", "1.5", "-1", "\"3\"", "true"] {
        assert_eq!(send(&engine, "PUT", "/v1/txn", set(wrong)).await.0, 400, "{wrong}");
    }
    let checked = format!(r#"[{{"kv":{{"verb":"check-index","key":"a","index":{}}}}}]"#, u64::MAX);
    assert_eq!(send(&engine, "PUT", "/v1/txn", checked).await.0, 409);
}

/// Half a surrogate pair, and octets that are not UTF-8, become U+FFFD as in Go.
#[tokio::test]
async fn invalid_unicode_is_replaced() {
    let engine = engine().await;
    for (body, name) in [(&br#"{"name":"\ud800x"}"#[..], "\u{FFFD}x"), (b"{\"name\":\"a\xFF\"}", "a\u{FFFD}")]
    {
        let (status, made) = send(&engine, "PUT", "/v1/session/create", body.to_vec()).await;
        assert_eq!(status, 200, "{made}");
        let path = format!("/v1/session/info/{}", made["ID"].as_str().unwrap());
        assert_eq!(send(&engine, "GET", &path, "").await.1[0]["Name"], json!(name));
    }
}
