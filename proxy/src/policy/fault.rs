//! Faults on purpose: a delay, then perhaps an answer in the upstream's place (Envoy's fault filter).

use bytes::Bytes;
use http::StatusCode;
use route_model::table::fault::{Abort, Fault, Fraction};

use crate::http::context::Exchange;
use crate::http::headers::{GRPC_STATUS, number};
use crate::http::local_reply::text_response;
use crate::http::message::Response;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::metrics::Count;

/// Delays a request if it drew that, and gives the answer if it drew an abort.
pub(crate) async fn inject(fault: &Fault, exchange: &mut Exchange) -> Option<Response<Bytes>> {
    let drawn = |share: Fraction| share.takes(fastrand::u32(..Fraction::WHOLE));
    if let Some((share, time)) = fault.delay
        && drawn(share)
    {
        exchange.flag(ResponseFlags::DELAY_INJECTED);
        exchange.worker().metrics.count(Count::FaultDelays);
        tokio::time::sleep(time).await;
    }
    let (share, abort) = fault.abort?;
    if !drawn(share) {
        return None;
    }
    exchange.flag(ResponseFlags::FAULT_INJECTED);
    exchange.details = Some("fault_filter_abort");
    exchange.worker().metrics.count(Count::FaultAborts);
    let body = Bytes::from_static(b"fault filter abort");
    Some(match abort {
        Abort::Http(status) => text_response(status, body),
        Abort::Grpc(status) => {
            let mut response = text_response(StatusCode::OK, body);
            response.headers_mut().insert(GRPC_STATUS, number(u64::from(status)));
            response
        }
    })
}
