//! `not` and `any` of a match: which route takes a request, over real sockets, and how `explain` says it.

use crate::support::{Gateway, get, get_h2c, send};

const YAML: &str = "admin: false
listeners: [{name: main, address: '127.0.0.1:0'}]
routes:
- {name: rest, respond: {body: rest}}
- name: shop
  match:
    any:
    - {path: /cart}
    - {path: {exact: /checkout}}
    - {path: {template: '/users/{id}'}, headers: {x-shop: {present: true}}}
    - {path: {template: '/items/{id}'}, methods: [POST]}
    not: {any: [{headers: {user-agent: {regex: '(?i)bot'}}}, {query: {debug: {present: true}}}]}
  filters: [{headers: {response: {set: {x-item: '{path.id}'}}}}]
  respond: {body: shop}
- {name: deeper, match: {path: /cart/old}, respond: {body: deeper}}
- {name: plain, match: {path: /same}, respond: {body: plain}}
- {name: narrower, match: {path: /same, not: {methods: [POST]}}, respond: {body: narrower}}
";

#[tokio::test(flavor = "multi_thread")]
async fn each_alternative_has_its_own_place_and_what_not_matches_goes_elsewhere() {
    let gateway = Gateway::start(YAML).await;
    let main = gateway.address("main");
    for (method, path, headers, expected) in [
        ("GET", "/cart", &[][..], "shop"),
        ("GET", "/cart/7", &[], "shop"),
        ("GET", "/cart/old/x", &[], "deeper"),
        ("GET", "/checkout", &[], "shop"),
        ("GET", "/checkout/x", &[], "rest"),
        ("POST", "/items/7", &[], "shop"),
        ("GET", "/cart", &[("user-agent", "GoodBot/1")], "rest"),
        ("GET", "/cart?debug", &[], "rest"),
        ("GET", "/same", &[], "narrower"),
        ("POST", "/same", &[], "plain"),
    ] {
        let answer = send(main, method, path, headers, "").await;
        assert_eq!(answer.assert_status(200).text(), expected, "{method} {path} {headers:?}");
    }
    assert_eq!(get_h2c(main, "/cart").await.text(), "shop");
    let item = send(main, "POST", "/items/7", &[], "").await;
    assert_eq!(item.header("x-item"), Some("7"), "an alternative's template fills in");
    // Elsewhere the methods of an alternative are told as a route's are.
    assert_eq!(get(main, "/items/7").await.assert_status(200).text(), "rest");
}

#[tokio::test]
async fn what_not_leaves_out_is_explained_and_one_route_is_told_once() {
    let explain = async |args: &[&str]| Gateway::start_expecting_failure(YAML, args).await.2;
    let told = explain(&["explain", "GET", "/cart?debug=1"]).await;
    assert!(told.contains("route     rest"), "{told}");
    assert!(told.contains("shop: `not` leaves it out"), "{told}");
    assert_eq!(told.matches("shop").count(), 1, "{told}");
    let told = explain(&["explain", "GET", "/same"]).await;
    assert!(told.contains("plain: also matches: less is left out"), "{told}");
    for (matching, expected) in [
        ("not: {}", "routes[0].match.not: it leaves out everything"),
        ("path: /a, any: [{path: /b}]", "routes[0].match.any[0].path: `path` is said beside `any` already"),
        ("any: [{pth: /b}]", "routes[0].match.any[0]: unknown key `pth` (did you mean `path`?)"),
        ("any: [{path: /b}, {path: /b}]", ""),
    ] {
        let yaml = format!(
            "listeners: [{{address: '127.0.0.1:1'}}]\nroutes: [{{match: {{{matching}}}, respond: {{}}}}]\n"
        );
        let (code, error, _) = Gateway::start_expecting_failure(&yaml, &["check"]).await;
        assert_eq!(code == 0, expected.is_empty(), "{matching}: {error}");
        assert!(error.contains(expected), "{matching}: {error}");
    }
}
