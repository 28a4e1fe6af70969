//! What a configuration costs in memory while it is in force, and that it is given back when it is not.

use std::{fs, time::Duration};

use crate::support::{Gateway, within_deadline};

/// As many as show what one route costs beside the process itself.
const MANY: usize = 2000;

/// Routes with hosts, headers, templates, expressions and limits. Their names change with `generation`, as they do where a
/// controller writes them.
fn yaml(routes: usize, generation: usize) -> String {
    let routes: String = (0..routes)
        .map(|n| {
            let path = match n % 4 {
                0 => format!("/api/v{n}/items"),
                1 => format!("{{template: '/api/v{n}/items/{{id}}'}}"),
                2 => format!("{{exact: '/api/v{n}'}}"),
                _ => format!("{{regex: '^/api/v{n}/\\d{{4}}$'}}"),
            };
            let host = n % 100;
            format!(
                "  - name: r{n}-{generation}\n    match: {{hosts: [h{host}.test], path: {path}, headers: {{x-version: '{n}'}}}}\n    \
                 filters: [{{rate_limit: {{rate: 100/s}}}}]\n    upstream: u\n"
            )
        })
        .collect();
    format!(
        "admin: false\nthreads: 2\nlisteners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         upstreams: {{u: {{endpoints: ['127.0.0.1:1']}}}}\nroutes:\n{routes}"
    )
}

/// Resident memory, in KiB.
fn resident(gateway: &Gateway) -> i64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_cost_a_few_kilobytes_each_and_a_reload_gives_back_those_that_are_gone() {
    const MIB: i64 = 1024;
    let gateway = Gateway::start(&yaml(1, 0)).await;
    let empty = resident(&gateway);
    // The allocator gives back soon after a reload is over, and not at a known moment.
    let settles = async |most: i64, what: &str| {
        let what = format!("{what}: within {} MiB of an empty gateway", most / MIB);
        let settled = async {
            while resident(&gateway) - empty > most {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within_deadline(&what, settled).await;
    };
    for generation in 1..=6 {
        assert_eq!(gateway.reload(&yaml(MANY, generation)).await["msg"], "configuration reloaded");
    }
    settles(40 * MIB, "many routes").await;
    assert_eq!(gateway.reload(&yaml(1, 7)).await["msg"], "configuration reloaded");
    settles(24 * MIB, "one route again").await;
}
