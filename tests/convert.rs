//! `tidegate convert`: what it writes, what it says of the rest, and files that are none.

mod backend;
mod gateway_api;
mod nginx;
pub(crate) mod scenario;
pub(crate) mod served;
mod traefik;

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::support::{
    certificates::{keep, self_signed, server},
    tidegate,
};

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(home: &Path, args: &[&str]) -> Ran {
    let output = tidegate(home).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Converts `site.conf` in this folder.
fn convert(home: &TempDir, text: &str, args: &[&str]) -> Ran {
    fs::write(home.path().join("site.conf"), text).unwrap();
    run(home.path(), &[&["convert", "nginx", "site.conf"], args].concat())
}

impl Ran {
    /// What was written is a configuration that would run.
    #[track_caller]
    fn assert_accepted(&self, home: &TempDir) {
        assert_eq!(self.code, 0, "{}", self.stderr);
        fs::write(home.path().join("gateway.yaml"), &self.stdout).unwrap();
        let check = run(home.path(), &["check", "-c", "gateway.yaml"]);
        assert_eq!(check.code, 0, "{}{}", self.stdout, check.stderr);
    }

    #[track_caller]
    fn assert_says(&self, expected: &[&str]) {
        for words in expected {
            assert!(self.stderr.contains(words), "{words:?} is not in {}", self.stderr);
        }
    }

    /// Each of these is in the file as well as on standard error.
    #[track_caller]
    fn assert_left(&self, expected: &[&str]) {
        self.assert_says(expected);
        for words in expected {
            let is_comment = |line: &str| line.trim_start().starts_with('#') && line.contains(words);
            assert!(self.stdout.lines().any(is_comment), "{words:?} is no comment in {}", self.stdout);
        }
    }
}

const SMALL: &str = "server { listen 127.0.0.1:8080; location / { proxy_pass http://127.0.0.1:9000; } }\n";

#[test]
fn what_is_written_runs_and_strict_asks_whether_all_of_it_is_there() {
    let home = TempDir::new().unwrap();
    let all = convert(&home, SMALL, &["--strict"]);
    all.assert_accepted(&home);
    all.assert_says(&["everything was carried over"]);
    let some = format!("{SMALL}error_page 404 /404.html;\n");
    let left = convert(&home, &some, &[]);
    left.assert_accepted(&home);
    left.assert_left(&[
        "site.conf:2: not carried over: error_page 404 /404.html (/404.html is no file: its location has `proxy_pass`)",
    ]);
    left.assert_says(&["1 line not carried over"]);
    assert_eq!(convert(&home, &some, &["--strict"]).code, 3);
}

#[test]
fn a_file_can_be_written_in_place_of_standard_output() {
    let home = TempDir::new().unwrap();
    let ran = convert(&home, SMALL, &["--out", "new.yaml"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    assert_eq!(run(home.path(), &["check", "-c", "new.yaml"]).code, 0);
    let ran = convert(&home, SMALL, &["--out", "no/such/folder.yaml"]);
    assert_eq!(ran.code, 1);
    ran.assert_says(&["cannot write no/such/folder.yaml"]);
}

#[test]
fn includes_are_relative_to_the_folder_that_is_named() {
    let home = TempDir::new().unwrap();
    fs::create_dir_all(home.path().join("etc/sites")).unwrap();
    fs::write(home.path().join("etc/upstreams.conf"), "upstream app { server 127.0.0.1:9000; }\n").unwrap();
    let site =
        "include upstreams.conf;\nserver { listen 127.0.0.1:8080; location / { proxy_pass http://app; } }\n";
    fs::write(home.path().join("etc/sites/shop"), site).unwrap();
    let ran = run(home.path(), &["convert", "nginx", "etc/sites/shop", "--prefix", "etc"]);
    ran.assert_accepted(&home);
    assert!(ran.stdout.contains("127.0.0.1:9000"), "{}", ran.stdout);
    let ran = run(home.path(), &["convert", "nginx", "etc/sites/shop"]);
    assert_eq!(ran.code, 1);
    ran.assert_says(&["etc/sites/shop:1:1: cannot read etc/sites/upstreams.conf: No such file"]);
}

#[test]
fn lua_and_tricks_with_if_are_named_and_not_carried_over() {
    let home = TempDir::new().unwrap();
    let ran = convert(
        &home,
        "server {
            listen 127.0.0.1:8080;
            location /lua { content_by_lua_block { ngx.say('}') } }
            location /tricks {
                set $kind plain;
                if ($http_cookie ~ admin) { set $kind admin; }
                if ($request_method = POST) { set $kind \"${kind}-post\"; }
                if ($kind = admin-post) { return 403; }
                proxy_pass http://127.0.0.1:9000;
            }
            location /more {
                if (-f $request_filename) { break; }
                if ($arg_x) { proxy_pass http://127.0.0.1:9001; }
                proxy_pass http://127.0.0.1:9000;
            }
        }",
        &[],
    );
    ran.assert_accepted(&home);
    ran.assert_left(&[
        "site.conf:3: not carried over: content_by_lua_block (Lua is not run here",
        "site.conf:5: not carried over: set $kind plain",
        "site.conf:6: not carried over: set $kind admin",
        "site.conf:7: not carried over: set $kind ${kind}-post",
        "site.conf:8: not carried over: if ($kind = admin-post) (",
        "site.conf:8: not carried over: return 403",
        "site.conf:12: not carried over: if (-f $request_filename)",
        "site.conf:13: not carried over: proxy_pass http://127.0.0.1:9001",
    ]);
    // What the third `if` kept out stays out.
    assert_eq!(ran.stdout.matches("status: 403").count(), 1, "{}", ran.stdout);
    assert_eq!(ran.stdout.matches("upstream:").count(), 1, "{}", ran.stdout);
}

#[test]
fn files_that_are_none_are_refused_where_they_are_wrong() {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("loop.conf"), "include loop.conf;\n").unwrap();
    fs::create_dir(home.path().join("folder")).unwrap();
    for (text, expected) in [
        ("server {\n  listen 80;\n", "site.conf:1:8: this block has no end"),
        ("server { }\n}\n", "site.conf:2:1: this `}` closes no block"),
        ("server {\n  return 200 \"text;\n}\n", "site.conf:2:14: this quote has no end"),
        ("server {\n  listen 80\n}\n", "site.conf:2:3: `listen` has no end"),
        ("x_by_lua_block {\n \"}\"\n", "site.conf:1:16: this block of Lua has no end"),
        ("http {\n  include loop.conf;\n}\n", "loop.conf:1:1: loop.conf includes itself"),
        ("include folder;\n", "site.conf:1:1: cannot read folder: it is no file"),
        ("include no/such.conf;\n", "site.conf:1:1: cannot read no/such.conf: No such file"),
        ("include [;\n", "site.conf:1:1: \"[\" is not a pattern"),
        // Whoever asks, root included, may not read this.
        ("include /proc/self/mem;\n", "site.conf:1:1: cannot read /proc/self/mem: "),
        ("events { }\n", "site.conf: there is nothing to convert"),
        ("", "site.conf: there is nothing to convert"),
        ("server { listen 443 ssl; }\n", "site.conf:1: not carried over: listen 443 ssl"),
    ] {
        let ran = convert(&home, text, &[]);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{text:?}: {}", ran.stderr);
        ran.assert_says(&[expected]);
    }
    let ran = run(home.path(), &["convert", "nginx", "none.conf"]);
    assert_eq!(ran.code, 1);
    ran.assert_says(&["none.conf: cannot read none.conf: No such file"]);
}

/// Another character in its place would be another value, and nobody would be told.
#[test]
fn bytes_that_are_no_utf8_are_refused_but_in_comments() {
    let home = TempDir::new().unwrap();
    let convert = |bytes: &[u8]| {
        fs::write(home.path().join("site.conf"), bytes).unwrap();
        run(home.path(), &["convert", "nginx", "site.conf"])
    };
    let comment = [&b"# caf\xe9\n"[..], SMALL.as_bytes()].concat();
    convert(&comment).assert_accepted(&home);
    let value = [&b"server {\n  add_header X-Name \"caf\xe9\";\n}\n"[..], SMALL.as_bytes()].concat();
    let ran = convert(&value);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{}", ran.stderr);
    ran.assert_says(&["site.conf:2:21: this is no UTF-8"]);
}

#[test]
fn what_is_too_deep_or_too_much_is_refused() {
    let home = TempDir::new().unwrap();
    let deep = convert(&home, &"a {".repeat(100_000), &[]);
    deep.assert_says(&["blocks are more than 32 deep"]);
    let many = convert(&home, &"a;\n".repeat(100_001), &[]);
    many.assert_says(&["site.conf:100001:1: there are more than 100000 directives"]);
    let file = fs::File::create(home.path().join("large.conf")).unwrap();
    file.set_len(33 << 20).unwrap();
    let large = convert(&home, "include large.conf;\n", &[]);
    large.assert_says(&["site.conf:1:1: large.conf is too much"]);
    for ran in [deep, many, large] {
        assert_eq!(ran.code, 1, "{}", ran.stderr);
    }
}

/// Who was kept out by nginx does not come in here.
#[test]
fn a_route_whose_guard_cannot_be_carried_over_is_closed() {
    let home = TempDir::new().unwrap();
    fs::write(home.path().join("md5"), "alice:$apr1$x$yyyyyyyyyyyyyyyyyyyyyy\n").unwrap();
    let ran = convert(
        &home,
        "server {
            listen 127.0.0.1:8080;
            location /md5 { auth_basic x; auth_basic_user_file md5; proxy_pass http://127.0.0.1:9000; }
            location /none { auth_basic x; auth_basic_user_file none; proxy_pass http://127.0.0.1:9000; }
            location /any { satisfy any; allow 10.0.0.0/8; deny all; auth_basic x; auth_basic_user_file md5; proxy_pass http://127.0.0.1:9000; }
            location /name { allow localhost; deny all; proxy_pass http://127.0.0.1:9000; }
            location /asked { auth_request /nobody; proxy_pass http://127.0.0.1:9000; }
        }",
        &[],
    );
    ran.assert_accepted(&home);
    ran.assert_left(&[
        "site.conf:3: not carried over: auth_basic_user_file md5 (the password of \"alice\"",
        "site.conf:4: not carried over: auth_basic x",
        "site.conf:5: not carried over: satisfy any",
        "site.conf:6: not carried over: allow localhost",
        "site.conf:7: not carried over: auth_request /nobody",
    ]);
    assert!(
        !ran.stdout.contains("upstream:") && ran.stdout.matches("status: 403").count() == 5,
        "{}",
        ran.stdout
    );
}

#[test]
fn tls_is_carried_over_and_a_listener_without_its_certificate_is_not_there() {
    let home = TempDir::new().unwrap();
    keep(home.path(), "shop", &self_signed(&server(&["shop.example.com"])));
    let text = |name: &str| {
        format!(
            "server {{ listen 8443 ssl http2; listen [::]:8443 ssl; server_name shop.example.com; ssl_protocols TLSv1.3;
               ssl_certificate {name}.crt; ssl_certificate_key {name}.key; location / {{ proxy_pass https://127.0.0.1:9000; }} }}
             server {{ listen 8080; location / {{ return 301 https://$host$request_uri; }} }}"
        )
    };
    let ran = convert(&home, &text("shop"), &["--strict"]);
    ran.assert_accepted(&home);
    for words in
        ["address: \":8443\"", "min_version: \"1.3\"", "insecure_skip_verify: true", "https_redirect:"]
    {
        assert!(ran.stdout.contains(words), "{words} is not in {}", ran.stdout);
    }
    let ran = convert(&home, &text("none"), &[]);
    ran.assert_accepted(&home);
    ran.assert_left(&["ssl_certificate none.crt"]);
    assert!(!ran.stdout.contains("8443\"") && ran.stdout.contains("8080\""), "{}", ran.stdout);
}

#[test]
fn streams_become_listeners_for_tcp_and_for_tls_that_passes_through() {
    let home = TempDir::new().unwrap();
    let ran = convert(
        &home,
        "stream {
            upstream db { least_conn; server 10.0.0.1:5432; server 10.0.0.2:5432; }
            map $ssl_preread_server_name $to { hostnames; mail.example.com 10.0.0.3:993; .example.org db; default 10.0.0.4:443; }
            server { listen 127.0.0.1:5432; proxy_pass db; proxy_timeout 1h; }
            server { listen 127.0.0.1:8443; ssl_preread on; proxy_pass $to; }
            server { listen 127.0.0.1:53 udp; proxy_pass 10.0.0.5:53; }
        }",
        &[],
    );
    ran.assert_accepted(&home);
    ran.assert_left(&["site.conf:6: not carried over: listen 127.0.0.1:53 udp (there is no UDP here)"]);
    for words in [
        "protocol: tcp",
        "protocol: tls_passthrough",
        "\"*.example.org\": db",
        "balancer: least_requests",
        "idle_timeout: 3600s",
    ] {
        assert!(ran.stdout.contains(words), "{words} is not in {}", ran.stdout);
    }
}
