//! The mesh on hosts of its own, made of network namespaces by `tests/mesh-lab`: the same cases with transparent and with
//! explicit capture, over IPv4 and over IPv6.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod lab;
mod outside;
mod policies;
mod routing;
mod streams;
mod wire;

use self::lab::{How, Lab};

/// Each set of cases in each environment, one after the other on the same hosts.
macro_rules! everywhere {
    ($($set:ident: $($case:path),+;)+) => { $(
        mod $set {
            use super::{How, on_hosts};

            #[tokio::test]
            async fn with_transparent_capture_over_ipv4() {
                cases(How::TransparentV4).await;
            }

            #[tokio::test]
            async fn with_transparent_capture_over_ipv6() {
                cases(How::TransparentV6).await;
            }

            #[tokio::test]
            async fn with_explicit_capture_over_ipv4() {
                cases(How::ExplicitV4).await;
            }

            #[tokio::test]
            async fn with_explicit_capture_over_ipv6() {
                cases(How::ExplicitV6).await;
            }

            async fn cases(how: How) {
                on_hosts(how, async |lab| {
                    $(
                        // Shown when the test fails.
                        eprintln!("case: {}", stringify!($case));
                        $case(lab).await;
                    )+
                })
                .await;
            }
        }
    )+ };
}

everywhere! {
    requests_go_by_their_routes:
        super::routing::headers_choose_versions,
        super::routing::weights_share_requests,
        super::routing::faults_are_injected,
        super::routing::failed_requests_are_tried_again,
        super::routing::requests_have_their_time,
        super::routing::requests_are_mirrored,
        super::routing::one_rule_serves_the_edge_and_the_mesh;
    policies_decide_who_may_ask:
        super::policies::strict_refuses_plain_text,
        super::policies::permissive_takes_both,
        super::policies::the_application_learns_who_asks,
        super::policies::identities_are_told_apart,
        super::policies::tokens_are_looked_at,
        super::policies::services_have_rate_limits,
        super::policies::the_edge_is_part_of_the_mesh;
    other_protocols_pass_both_sidecars:
        super::streams::bytes_go_by_tcp_routes,
        super::streams::tls_goes_by_its_server_name,
        super::streams::websockets_stay_open,
        super::streams::every_kind_of_grpc_call_passes;
    the_world_outside_is_reached_as_the_mesh_says:
        super::outside::what_nobody_declares_is_let_through_or_not,
        super::outside::an_egress_gateway_is_the_way_out;
    no_plain_text_is_on_the_wire:
        super::wire::nothing_can_be_read_between_hosts;
}

async fn on_hosts(how: How, cases: impl AsyncFnOnce(&Lab)) {
    if let Some(lab) = Lab::start(how).await {
        cases(&lab).await;
    }
}
