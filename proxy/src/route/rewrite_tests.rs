//! Rewritten paths, redirects and changed fields.

use proptest::prelude::*;
use store::model::{HeaderField, UrlRewrite};

use super::*;

fn change(rewrite: PathRewrite) -> PathChange {
    PathChange::compile(&UrlRewrite { path: Some(rewrite), hostname: None }.path.unwrap()).unwrap()
}

fn prefix_by(replacement: &str) -> PathChange {
    change(PathRewrite::Prefix { replace_prefix_match: replacement.to_owned() })
}

fn whole_by(replacement: &str) -> PathChange {
    change(PathRewrite::Full { replace_full_path: replacement.to_owned() })
}

fn regex_by(regex: &str, substitution: &str) -> PathChange {
    change(PathRewrite::Regex { regex: regex.parse().unwrap(), substitution: substitution.to_owned() })
}

fn applied(change: &PathChange, by: &PathMatch, path: &str) -> String {
    let new = change.apply(by, path).unwrap();
    format!("{}{}", new.start, new.rest)
}

#[test]
fn a_prefix_is_replaced_as_in_gateway_api() {
    let foo = PathMatch::Prefix("/foo".to_owned());
    for (replacement, path, expected) in [
        ("/xyz", "/foo/bar", "/xyz/bar"),
        ("/xyz", "/foo", "/xyz"),
        ("/xyz", "/foo/", "/xyz/"),
        ("/xyz/", "/foo/bar", "/xyz/bar"),
        ("/", "/foo/bar", "/bar"),
        ("/", "/foo", "/"),
        ("/", "/foo/", "/"),
        ("/", "/foo//bar", "//bar"),
    ] {
        assert_eq!(applied(&prefix_by(replacement), &foo, path), expected, "{replacement} {path}");
    }
    let root = PathMatch::root();
    assert_eq!(applied(&prefix_by("/xyz"), &root, "/a"), "/xyz/a");
    assert_eq!(applied(&prefix_by("/"), &root, "/a"), "/a");
    assert_eq!(applied(&prefix_by("/xyz"), &PathMatch::Exact("/a".to_owned()), "/a"), "/xyz");
    let pattern = PathMatch::Pattern("/u/{id}".parse().unwrap());
    assert_eq!(applied(&prefix_by("/xyz"), &pattern, "/u/1"), "/u/1", "a pattern has no prefix");
    let (change, start) = (prefix_by("/xyz"), "/foo/bar");
    assert!(matches!(change.apply(&foo, start).unwrap().start, Cow::Borrowed(_)), "nothing is copied");
}

#[test]
fn a_whole_path_may_have_parameters() {
    let pattern = PathMatch::Pattern("/u/{id}/p/{post}".parse().unwrap());
    let path = "/u/5/p/a%2Fb";
    assert_eq!(applied(&whole_by("/x"), &pattern, path), "/x");
    assert_eq!(applied(&whole_by("/posts/{post}/of/{id}"), &pattern, path), "/posts/a%2Fb/of/5");
    assert_eq!(applied(&whole_by("/{id}{id}"), &pattern, path), "/55");
    assert_eq!(applied(&whole_by("/{other}/{"), &pattern, path), "/%7Bother%7D/%7B", "no parameters");
}

#[test]
fn a_substitution_makes_a_path_in_normal_form() {
    let any = PathMatch::root();
    let by = |regex, substitution, path| applied(&regex_by(regex, substitution), &any, path);
    assert_eq!(by("^/v[0-9]+/(?P<rest>.*)$", "/${rest}", "/v1/a/b"), "/a/b");
    assert_eq!(by("/x", "/y", "/x/x"), "/y/y", "every match");
    assert_eq!(by("/x", "/y", "/a"), "/a");
    assert_eq!(by("^/", "", "/a"), "/a", "a path starts with a slash");
    assert_eq!(by("x", "", "/.x./.x./etc"), "/etc", "and does not lead above the root");
    assert_eq!(by("x", "?a=$0 #\u{e9}", "/x"), "/%3Fa=x%20%23%C3%A9", "and has no query");
    assert_eq!(by("x", "$$1", "/x"), "/$1");
    assert_eq!(by("x*", "-", "/ab"), "/-/-a-b-", "also where a match is empty");
    let large = regex_by(".", &"$0".repeat(400));
    assert_eq!(large.apply(&any, &format!("/{}", "x".repeat(8000))), Err(PathTooLong));
}

fn redirect(of: RequestRedirect, asked: &str, https: bool, target: &str) -> String {
    let target = Target::read("GET", target.as_bytes()).unwrap();
    let asked = Authority::read(asked.as_bytes()).unwrap();
    let by = PathMatch::Prefix("/foo".to_owned());
    Redirect::compile(&of).location(&by, &target, &asked, https).unwrap()
}

#[test]
fn a_redirect_keeps_what_it_does_not_name() {
    let plain = || RequestRedirect { scheme: None, hostname: None, port: None, path: None, status_code: 302 };
    let https = || RequestRedirect { scheme: Some(Scheme::Https), ..plain() };
    let host = || RequestRedirect { hostname: Some("b.example".parse().unwrap()), ..plain() };
    let port = |port| RequestRedirect { port: Some(port), ..plain() };
    let to = |path| RequestRedirect { path: Some(path), ..plain() };
    let prefix = PathRewrite::Prefix { replace_prefix_match: "/x".to_owned() };
    let full = PathRewrite::Full { replace_full_path: "/y".to_owned() };
    let strip = PathRewrite::Prefix { replace_prefix_match: "/".to_owned() };
    for (of, asked, was_https, target, expected) in [
        (https(), "a.example", false, "/p?q", "https://a.example/p?q"),
        (https(), "a.example:8080", false, "/p", "https://a.example/p"),
        (
            RequestRedirect { port: Some(8443), ..https() },
            "a.example:80",
            false,
            "/",
            "https://a.example:8443/",
        ),
        (host(), "a.example:8080", false, "/p", "http://b.example:8080/p"),
        (host(), "a.example:443", true, "/p", "https://b.example/p"),
        (host(), "[::1]", true, "/p", "https://b.example/p"),
        (port(80), "a.example:8080", false, "/p", "http://a.example/p"),
        (port(80), "[::1]:1", true, "/p", "https://[::1]:80/p"),
        (to(prefix), "a.example", false, "/foo/%61/../b?x=1", "http://a.example/x/b?x=1"),
        (to(full), "a.example", false, "/foo", "http://a.example/y"),
        (to(strip), "a.example", false, "/foo//evil.example/", "http://a.example//evil.example/"),
        (plain(), "a.example", false, "/%7e/a/", "http://a.example/%7e/a/"),
        (plain(), "a.example", false, "/a/../../b", "http://a.example/b"),
    ] {
        assert_eq!(redirect(of.clone(), asked, was_https, target), expected, "{of:?} {asked} {target}");
    }
}

#[test]
fn fields_are_removed_set_and_added() {
    let field =
        |name: &str, value: &str| HeaderField { name: name.parse().unwrap(), value: value.to_owned() };
    let changes = FieldChanges::compile(&HeaderModifier {
        set: vec![field("X-Set", "1")],
        add: vec![field("X-Add", "2"), field("X-Set", "3")],
        remove: vec!["X-Gone".parse().unwrap()],
    });
    for (name, drops) in [
        ("x-set", true),
        ("X-SET", true),
        ("x-gone", true),
        // CGI reads both as HTTP_X_GONE.
        ("X_Gone", true),
        ("x-add", false),
        ("x-se", false),
    ] {
        assert_eq!(changes.drops(name.as_bytes()), drops, "{name}");
    }
    assert_eq!(changes.lines(), b"X-Set: 1\r\nX-Add: 2\r\nX-Set: 3\r\n");
}

proptest! {
    #[test]
    fn whatever_is_rewritten_is_a_path_in_normal_form(
        path in "/[a.%/]{0,12}",
        replacement in "(/[ab]){0,2}",
        regex in prop::sample::select(vec!["/", "a", "\\.", "^/?", "a*", "/.*"]),
        substitution in "[a./$0?{} ]{0,6}",
    ) {
        let path = normal_path(&path);
        let by = PathMatch::Prefix("/a".to_owned());
        let by = if path == "/a" || path.starts_with("/a/") { by } else { PathMatch::root() };
        for change in [prefix_by(&replacement), regex_by(regex, &substitution), whole_by(&format!("/{substitution}"))] {
            let whole = matches!(change, PathChange::Whole(_)) && !substitution.contains('{');
            if whole {
                continue; // Documents have such a path in normal form already.
            }
            let new = applied(&change, &by, &path);
            prop_assert!(new.starts_with('/'), "{}", new);
            let read = Target::read("GET", new.as_bytes()).unwrap();
            prop_assert_eq!(&*read.path, &new);
            prop_assert!(read.query.is_none());
        }
    }
}
