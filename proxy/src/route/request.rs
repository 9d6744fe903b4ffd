//! What routing reads of a request, whatever the version of HTTP: nothing here is a type of a protocol's library.

use std::net::IpAddr;

/// A request as routes are matched with it.
pub(crate) trait Request {
    /// The method, in the client's case.
    fn method(&self) -> &str;
    /// The host in lower case, without port and final dot; empty if the request has none.
    fn host(&self) -> &str;
    /// The path in normal form ([`Target::matched`](crate::target::Target::matched)).
    fn path(&self) -> &str;
    /// The query as it was sent, without its `?`.
    fn query(&self) -> Option<&str>;
    /// True if the client's connection was over TLS, here or at a trusted terminator in front.
    fn is_https(&self) -> bool;
    /// The address of the client, behind trusted forwarders the one that they tell.
    fn client(&self) -> IpAddr;
    /// The values of every line of a header field, in their order, without white space around them. The case of the name
    /// means nothing.
    fn fields<'r>(&'r self, name: &'r str) -> impl Iterator<Item = &'r [u8]>;
}

/// How many ends of segments are kept; those of deeper ones are looked for when a route is that deep.
const KEPT: usize = 16;

/// The segments of a path, found in one pass and without allocation.
#[derive(Debug)]
pub(super) struct Segments<'p> {
    path: &'p str,
    ends: [u32; KEPT],
    count: usize,
}

impl<'p> Segments<'p> {
    pub(super) fn of(path: &'p str) -> Self {
        let (mut ends, mut count) = ([0; KEPT], 0);
        for (at, octet) in path.bytes().enumerate().skip(1) {
            if octet == b'/' {
                if let (Some(end), Ok(at)) = (ends.get_mut(count), u32::try_from(at)) {
                    *end = at;
                }
                count += 1;
            }
        }
        if let (Some(end), Ok(at)) = (ends.get_mut(count), u32::try_from(path.len())) {
            *end = at;
        }
        Self { path, ends, count: count + 1 }
    }

    /// How many there are; `/` has one, which is empty.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The whole path.
    pub(super) const fn path(&self) -> &'p str {
        self.path
    }

    /// The path to the end of the first `depth` segments.
    pub(super) fn prefix(&self, depth: usize) -> &'p str {
        let end = match depth.checked_sub(1) {
            None => 0,
            Some(at) => match self.ends.get(at) {
                Some(end) => *end as usize,
                None => self.path.match_indices('/').nth(depth).map_or(self.path.len(), |(at, _)| at),
            },
        };
        self.path.get(..end).unwrap_or(self.path)
    }

    /// The segments, without slashes.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'p str> + use<'p> {
        self.path.strip_prefix('/').unwrap_or(self.path).split('/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_any_depth() {
        let deep = "/x".repeat(40);
        for (path, count) in [("/", 1), ("/a", 1), ("/a/", 2), ("//", 2), ("/a//b", 3), (deep.as_str(), 40)] {
            let segments = Segments::of(path);
            assert_eq!(segments.count(), count, "{path}");
            assert_eq!(segments.iter().count(), count, "{path}");
            let mut prefix = String::new();
            for (depth, segment) in segments.iter().enumerate() {
                assert_eq!(segments.prefix(depth), prefix, "{path} {depth}");
                prefix = format!("{prefix}/{segment}");
            }
            assert_eq!(segments.prefix(count), path);
        }
    }
}
