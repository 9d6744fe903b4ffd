//! What a start checks before anything else: the node's folder and its addresses.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::error::NodeError;
use crate::config::{
    Config,
    addresses::{absent, listened},
};

/// How long a start waits for addresses that this machine does not have. At boot they may come a moment after the network
/// (DHCP, the detection of duplicate IPv6 addresses).
const TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// Creates the node's folder if it is absent, and checks that it can be written.
pub(super) fn make_folder(path: &Path) -> Result<(), NodeError> {
    use rustix::fs::{Access, access};
    let made = std::fs::create_dir_all(path)
        .and_then(|()| access(path, Access::WRITE_OK | Access::EXEC_OK).map_err(Into::into));
    made.map_err(|error| NodeError::Folder { path: path.to_owned(), error })
}

/// Waits until the machine has every address that the node is to listen on.
pub(super) async fn wait_for_addresses(config: &Config) -> Result<(), NodeError> {
    let all = listened(config);
    let begun = Instant::now();
    let mut warned = false;
    while let Some(missing) = absent(&all) {
        let (key, address) = (missing.key, missing.address);
        if begun.elapsed() >= TIMEOUT {
            return Err(NodeError::NoSuchAddress { key, address });
        }
        if !warned {
            warned = true;
            tracing::warn!(key, %address, "this machine has no such address yet; waiting for it for 10s");
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::listen::ListenError;

    fn bind(kind: io::ErrorKind) -> [NodeError; 4] {
        let address = "127.0.0.1:1".parse().unwrap();
        let dns = || dns::Error::Listen { address, protocol: "TCP", source: kind.into() };
        [
            NodeError::Listen(ListenError::Bind { what: "[control] listen", address, source: kind.into() }),
            NodeError::Dns(dns()),
            NodeError::Registry(dns()),
            NodeError::Proxy(proxy::Error::Listen { address, source: kind.into() }),
        ]
    }

    #[test]
    fn an_error_that_may_pass_is_no_wrong_configuration() {
        for passing in bind(io::ErrorKind::AddrInUse) {
            assert!(!passing.is_of_configuration(), "{passing}");
        }
        let full = NodeError::Folder { path: "/d".into(), error: io::ErrorKind::StorageFull.into() };
        assert!(!full.is_of_configuration());
        assert!(!NodeError::Panicked("a part").is_of_configuration());
        assert!(!NodeError::Dns(dns::Error::Ended(String::new())).is_of_configuration());
    }

    #[test]
    fn an_error_that_no_restart_repairs_is_a_wrong_configuration() {
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::AddrNotAvailable] {
            for wrong in bind(kind) {
                assert!(wrong.is_of_configuration(), "{wrong}");
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        for impossible in [Path::new("/proc/nope"), file.path(), &file.path().join("below")] {
            let wrong = make_folder(impossible).unwrap_err();
            assert!(wrong.is_of_configuration(), "{wrong}");
        }
        let dir = tempfile::tempdir().unwrap();
        make_folder(&dir.path().join("a/new/one")).unwrap();
    }

    /// Waits for the whole timeout on purpose.
    #[tokio::test]
    async fn an_address_that_never_comes_is_a_wrong_configuration() {
        let text = "node = \"n\"\nsite = \"s\"\ndata_dir = \"/d\"\n[store]\nengine = \"embedded\"\n\
                    [proxy]\ncluster = \"c\"\nlisten = [\"127.0.0.1:0\", \"192.0.2.1:80\"]\n";
        let config = Config::parse("node.toml", text).unwrap();
        let wrong = wait_for_addresses(&config).await.unwrap_err();
        assert!(wrong.is_of_configuration(), "{wrong}");
        let said = wrong.to_string();
        assert_eq!(said, "proxy.listen: this machine has no address 192.0.2.1 (192.0.2.1:80)");
        let here = Config::parse("node.toml", &text.replace("192.0.2.1", "127.0.0.1")).unwrap();
        wait_for_addresses(&here).await.unwrap();
    }
}
