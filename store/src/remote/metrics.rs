//! The metrics of the exchange of instances, for the controls.

crate::metrics! {
    /// The metrics of telling and writing instances.
    pub struct RemoteMetrics {
        pub changes_told: counter(
            "waypost.remote.changes_told",
            "{change}",
            "Changes of services in this site's registry that other sites can read."
        );
        pub pages_told: counter(
            "waypost.remote.pages_told",
            "{page}",
            "Pages of instances handed to other sites."
        );
        pub wholes_told: counter(
            "waypost.remote.wholes_told",
            "{time}",
            "Times another site began to read everything, since it knew nothing or was too far behind."
        );
        pub instances_cut: counter(
            "waypost.remote.instances_cut",
            "{instance}",
            "Instances that other sites are not told of, since a service has too many or a name is too long."
        );
        pub labels_cut: counter(
            "waypost.remote.labels_cut",
            "{instance}",
            "Instances told without some of their metadata or tags, since they are too long."
        );
        pub services_cut: counter(
            "waypost.remote.services_cut",
            "{service}",
            "Services left out since a site tells of too many."
        );
        pub pages_refused: counter(
            "waypost.remote.pages_refused",
            "{page}",
            "Pages of other sites that were refused: malformed, too large, or of a newer version."
        );
        pub batches_written: counter(
            "waypost.remote.batches_written",
            "{batch}",
            "Batches of other sites' changes written to the engine."
        );
        pub bytes_written: counter(
            "waypost.remote.bytes_written",
            "By",
            "Bytes of other sites' instances written to the engine."
        );
        pub bases_written: counter(
            "waypost.remote.bases_written",
            "{time}",
            "Times everything that another site tells was written anew."
        );
    }
}
