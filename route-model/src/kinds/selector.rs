//! How policies name what they apply to.

use super::value::{StringMap, Written, message};

message! {
    /// Labels that a workload must carry (`istio.type.v1beta1.WorkloadSelector`).
    pub struct LabelSelector {
        pub match_labels: Written<StringMap>,
    }

    /// The same as networking resources write it (`istio.networking.v1.WorkloadSelector`).
    pub struct WorkloadSelector {
        pub labels: Written<StringMap>,
    }

    /// A reference to the object that a policy is attached to.
    pub struct TargetRef {
        pub group: Written<String>,
        pub kind: Written<String>,
        pub name: Written<String>,
        /// Must be empty: references do not cross namespaces.
        pub namespace: Written<String>,
    }
}
