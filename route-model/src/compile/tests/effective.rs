//! What is in force for a rule, with where it was written.

use super::*;
use crate::effective::{EffectiveRule, effective};
use crate::meta::ResourceKey;

const SHOP: &str = "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop.test]
  gateways: [edge, istio-system/other]
  http:
  - name: cart
    match: [{uri: {prefix: /cart}}]
    timeout: 4s
    retries: {attempts: 5}
    route:
    - {destination: {host: cart.test, subset: new, port: {number: 80}}, weight: 10}
    - {destination: {host: cart.test, port: {number: 81}}, weight: 90}
  - name: pay
    match: [{uri: {prefix: /pay}}]
    timeout: 9s
    fault: {abort: {httpStatus: 418, percentage: {value: 1}}}
    delegate: {name: pay, namespace: default}
  - redirect: {uri: /}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pay, namespace: default}
spec:
  http:
  - timeout: 1s
    route: [{destination: {host: pay.test, port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cart, namespace: default}
spec:
  hosts: [cart.test]
  resolution: STATIC
  ports: [{number: 80, name: a, protocol: HTTP}, {number: 81, name: b, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: default}
spec:
  host: cart.test
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    connectionPool: {tcp: {maxConnections: 100, connectTimeout: 3s}}
    portLevelSettings:
    - {port: {number: 81}, outlierDetection: {consecutive5xxErrors: 7}}
  subsets:
  - {name: new, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 9}}}}
---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {connectTimeout: 2s}
---
apiVersion: fairway.dev/v1
kind: RateLimitPolicy
metadata: {name: per-client, namespace: default}
spec:
  targetRefs: [{group: networking.istio.io, kind: VirtualService, name: shop, sectionName: cart}]
  rules: [{name: all, limit: {requests: 60, per: 1m, burst: 5}}]
---
apiVersion: fairway.dev/v1
kind: BackendPolicy
metadata: {name: uploads, namespace: default}
spec:
  targetRefs: [{group: networking.istio.io, kind: VirtualService, name: shop, sectionName: cart}]
  requestBody: {maxBytes: 900}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: istio-system}
spec: {jwtRules: [{issuer: 'https://issuer.test'}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: istio-system, annotations: {istio.io/dry-run: 'true'}}
spec: {action: DENY, rules: [{}]}
";

fn find(rule: Option<&str>) -> Result<Vec<EffectiveRule>, String> {
    let key = ResourceKey::new(Kind::VirtualService, "default", "shop");
    effective(&set(SHOP), &scope(), &key, rule).map_err(|error| error.to_string())
}

fn only(rule: &str) -> EffectiveRule {
    let mut rules = find(Some(rule)).expect("a rule");
    assert_eq!(rules.len(), 1);
    rules.remove(0)
}

/// The lines of a rule's text, with single spaces.
fn lines(rule: &EffectiveRule) -> Vec<String> {
    rule.to_string().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn each_value_is_told_with_the_field_that_it_comes_from() {
    assert_eq!(
        lines(&only("cart")),
        [
            "rule `cart` VirtualService default/shop spec.http[0]",
            "gateways default/edge, istio-system/other",
            "requestBody.maxBytes 900 BackendPolicy default/uploads spec.requestBody.maxBytes",
            "retries.attempts 5 VirtualService default/shop spec.http[0].retries.attempts",
            "retries.backoff 25ms default",
            "retries.retryOn connect-failure,refused-stream,cancelled,unavailable default",
            "timeout 4s VirtualService default/shop spec.http[0].timeout",
            "under RequestAuthentication istio-system/tokens",
            "tokens of https://issuer.test",
            "under AuthorizationPolicy istio-system/nobody",
            "Deny: 1 rule, dry run",
            "under RateLimitPolicy default/per-client",
            "all: 60 requests in 60s, up to 5 at once",
            "to cart.test:80 subset new 10.0% VirtualService default/shop spec.http[0].route[0]",
            "in force DestinationRule default/cart",
            "connectionPool.http.http1MaxPendingRequests unlimited default",
            "connectionPool.http.http2MaxRequests 9 DestinationRule default/cart \
             spec.subsets[0].trafficPolicy.connectionPool.http.http2MaxRequests",
            "connectionPool.http.idleTimeout 3600s default",
            "connectionPool.http.maxRetries unlimited default",
            "connectionPool.tcp.connectTimeout 2s MeshConfig default spec.connectTimeout",
            "not 3s DestinationRule default/cart spec.trafficPolicy.connectionPool.tcp.connectTimeout",
            "connectionPool.tcp.maxConnections unlimited default",
            "not 100 DestinationRule default/cart spec.trafficPolicy.connectionPool.tcp.maxConnections",
            "loadBalancer.simple ROUND_ROBIN DestinationRule default/cart spec.trafficPolicy.loadBalancer.simple",
            "to cart.test:81 90.0% VirtualService default/shop spec.http[0].route[1]",
            "in force DestinationRule default/cart",
            "connectionPool.http.http1MaxPendingRequests unlimited default",
            "connectionPool.http.http2MaxRequests unlimited default",
            "connectionPool.http.idleTimeout 3600s default",
            "connectionPool.http.maxRetries unlimited default",
            "connectionPool.tcp.connectTimeout 2s MeshConfig default spec.connectTimeout",
            "not 3s DestinationRule default/cart spec.trafficPolicy.connectionPool.tcp.connectTimeout",
            "connectionPool.tcp.maxConnections unlimited default",
            "not 100 DestinationRule default/cart spec.trafficPolicy.connectionPool.tcp.maxConnections",
            "loadBalancer.simple LEAST_REQUEST default",
            "not ROUND_ROBIN DestinationRule default/cart spec.trafficPolicy.loadBalancer.simple",
            "outlierDetection.consecutive5xxErrors 7 DestinationRule default/cart \
             spec.trafficPolicy.portLevelSettings[0].outlierDetection.consecutive5xxErrors",
        ]
    );
}

#[test]
fn what_a_delegate_leaves_open_comes_from_the_rule_that_delegates() {
    let rule = only("pay");
    let setting = |name: &str| {
        let found = rule.settings.iter().find(|setting| setting.name == name).expect(name);
        let from = found.from.as_ref().map(|from| format!("{} {}", from.resource, from.field));
        (found.value.to_string(), from.unwrap_or_default(), found.overrides.len())
    };
    assert_eq!(
        setting("timeout"),
        ("\"1s\"".to_owned(), "VirtualService default/pay spec.http[0].timeout".to_owned(), 1)
    );
    let (value, from, _) = setting("fault.abort.httpStatus");
    assert_eq!((&*value, &*from), ("418", "VirtualService default/shop spec.http[1].fault.abort.httpStatus"));
    assert_eq!(rule.origin.resource, "VirtualService default/pay");
    assert_eq!(rule.destinations[0].rules, Vec::<String>::new());
}

#[test]
fn rules_are_asked_for_by_name_or_number() {
    assert_eq!(find(None).expect("all").len(), 3);
    assert_eq!(only("2").settings.len(), 1, "a redirect sends nothing on");
    let unknown = find(Some("checkout")).expect_err("unknown");
    assert_eq!(unknown, "VirtualService default/shop has no rule `checkout`; its rules are cart, pay, 2");
    let key = ResourceKey::new(Kind::VirtualService, "default", "nobody");
    let missing = effective(&set(SHOP), &scope(), &key, None).expect_err("missing");
    assert_eq!(missing.to_string(), "there is no VirtualService default/nobody");
}
