use std::{fs, path::Path};

/// Shows the seeds of a target to a test, each named before it.
fn seeds(name: &str, mut see: impl FnMut(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        see(&fs::read(path).unwrap());
    }
}

#[test]
fn requests() {
    seeds("http1_request", super::http1_request);
}

#[test]
fn answers() {
    seeds("http1_response", super::http1_response);
}

#[test]
fn proxy_headers() {
    seeds("proxy_header", super::proxy_header);
}

#[test]
fn targets() {
    seeds("request_target", super::request_target);
}

#[test]
fn rewrites() {
    seeds("rewrite", super::rewrite);
}

#[test]
fn routes() {
    seeds("routing", super::routing);
}
