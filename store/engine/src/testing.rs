//! Builders of instances and registrations for tests, in this crate and, with the feature `testing`, in those above it.

use crate::{CheckStatus, Endpoint, Index, Registration};

/// An instance at 127.0.0.1:80 on the node `n1`, which passes its checks.
#[must_use]
pub fn endpoint(service: &str, id: &str) -> Endpoint {
    Endpoint {
        node: "n1".to_owned(),
        node_address: "127.0.0.1".to_owned(),
        external: false,
        service: service.to_owned(),
        id: id.to_owned(),
        address: "127.0.0.1".to_owned(),
        port: 80,
        tags: vec![],
        meta: [].into(),
        weight: 1,
        status: CheckStatus::Passing,
        maintenance: false,
        create_index: Index(1),
        modify_index: Index(1),
    }
}

/// The registration of an instance at 127.0.0.1:80, without a check.
#[must_use]
pub fn registration(service: &str, id: &str) -> Registration {
    Registration {
        service: service.to_owned(),
        id: id.to_owned(),
        address: ([127, 0, 0, 1], 80).into(),
        tags: vec![],
        meta: [].into(),
        ttl: None,
        status: CheckStatus::Passing,
    }
}
