//! What cannot be a plugin is refused before anything is served, with its place, its reason and what to do.

use crate::support::{
    Gateway,
    plugins::{directory_with, put, written},
    tidegate,
};
use tempfile::TempDir;

/// What `tidegate check` says of a plugin with that file.
fn check(module: &[u8], more: &str) -> (bool, String) {
    let directory = TempDir::new().unwrap();
    put(directory.path(), "p", module);
    let yaml = format!(
        "listeners: [{{address: '127.0.0.1:0'}}]\n\
         plugins:\n  p: {{file: p.wasm, {more}}}\n\
         routes: [{{filters: [{{wasm: p}}], respond: {{}}}}]\n"
    );
    std::fs::write(directory.path().join("gateway.yaml"), yaml).unwrap();
    let output = tidegate(directory.path()).args(["check", "-c", "gateway.yaml"]).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

fn assert_refused(module: &[u8], more: &str, expected: &str) {
    let (is_fine, told) = check(module, more);
    assert!(!is_fine && told.contains(expected), "{expected:?} is not in: {told}");
}

fn plain(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[test]
fn a_file_that_is_no_plugin_is_refused_with_what_it_is() {
    assert_refused(b"#!/bin/sh", "", "gateway.yaml:3:13: plugins.p.file: ");
    assert_refused(b"#!/bin/sh", "", "it is no WebAssembly");
    assert_refused(b"", "", "it is no WebAssembly");
    assert_refused(b"\x7fELF\x02\x01", "", "it is compiled already, and such code is never loaded");
    assert_refused(b"\0asm\x0d\0\x01\0", "", "WebAssembly of another kind");
    let whole = written("");
    assert_refused(&whole[..whole.len() - 20], "", "it cannot be compiled");
    assert_refused(&plain("(module)"), "", "it exports no `proxy_abi_version_0_2_1`");
    let later = plain(r#"(module (func (export "proxy_abi_version_0_3_0")))"#);
    assert_refused(&later, "", "`proxy_abi_version_0_3_0`");
    let without = plain(r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1")))"#);
    assert_refused(&without, "", "neither `proxy_on_memory_allocate` nor `malloc`");
    let memories = |more: &str| {
        plain(&format!(
            r#"(module {more} (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) (i32.const 0)))"#
        ))
    };
    assert_refused(&memories(r#"(memory (export "mem") 1)"#), "", "it exports no memory named `memory`");
    assert_refused(&memories(r#"(memory (export "memory") 1) (memory 1)"#), "", "it cannot be compiled");
}

#[test]
fn all_that_a_plugin_needs_and_nobody_has_is_named() {
    let module = plain(
        r#"(module
        (import "env" "proxy_redis_call" (func (param i32)))
        (import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
        (import "env" "envoy_resolve_dns" (func (param i32)))
        (memory (export "memory") 1)
        (func (export "malloc") (param i32) (result i32) (i32.const 0))
        (func (export "proxy_abi_version_0_2_0")))"#,
    );
    assert_refused(&module, "", "not offered here: `env.proxy_redis_call`, `env.envoy_resolve_dns`");
}

#[test]
fn what_does_not_start_is_refused_with_what_it_said_last() {
    let says = |name: &str, body: &str| {
        written(&format!(
            r#"(data (i32.const 1024) "the rules are wrong")
        (func (export "{name}") (param i32 i32) (result i32)
          (drop (call $log (i32.const 4) (i32.const 1024) (i32.const 19))) {body})"#
        ))
    };
    assert_refused(
        &says("proxy_on_configure", "(i32.const 0)"),
        "",
        "does not take its configuration; its last lines: the rules are wrong",
    );
    assert_refused(&says("proxy_on_vm_start", "(i32.const 0)"), "", "it said that it cannot start");
    assert_refused(&says("proxy_on_configure", "(unreachable)"), "", "proxy_on_configure failed");
    let endless = says("proxy_on_configure", "(loop $l (br $l)) (unreachable)");
    assert_refused(&endless, "limits: {start: 30ms}", "it used up its CPU time");
    let first = written(r#"(func (export "_initialize") (unreachable))"#);
    assert_refused(&first, "", "cannot be initialised");
    let without = written(r#"(func (export "proxy_on_context_create") (param i32 i32) (unreachable))"#);
    assert_refused(&without, "", "were no contexts registered?");
    let large =
        written(r#"(func (export "_initialize") (drop (memory.grow (i32.const 100))) (unreachable))"#);
    assert_refused(&large, "limits: {memory: 1MiB}", "it was refused more memory");
    // Tables count, each of them.
    let tables = written("(table 60000 funcref) (table 60000 funcref)");
    assert_refused(&tables, "limits: {memory: 1MiB}", "it was refused more memory");
    assert!(check(&tables, "limits: {memory: 2MiB}").0);
    assert_refused(&written(&"(table 1 funcref)".repeat(17)), "", "cannot be instantiated");
}

#[test]
fn a_function_of_another_signature_is_refused_wherever_it_is_looked_at() {
    let other = written(r#"(func (export "proxy_on_tick") (param i64))"#);
    let told = "`proxy_on_tick` is not the function that proxy-wasm knows: it is (i64) -> (), and should be (i32) -> ()";
    assert_refused(&other, "", told);
    let head =
        written(r#"(func (export "proxy_on_request_headers") (param i32) (result i32) (i32.const 0))"#);
    assert_refused(&head, "", "it is (i32) -> (i32), and should be (i32, i32, i32) -> (i32)");
    let directory = TempDir::new().unwrap();
    put(directory.path(), "other", &other);
    let output = tidegate(directory.path()).args(["plugin", "other.wasm"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && shown.contains(told), "{shown}");
}

#[test]
fn the_words_of_the_configuration_are_checked() {
    let module = written(r#"(func (export "proxy_on_log") (param i32))"#);
    assert!(check(&module, "").0, "{}", check(&module, "").1);
    assert_refused(&module, "sha256: abc", "\"abc\" is no SHA-256");
    let other = "a".repeat(64);
    assert_refused(
        &module,
        &format!("sha256: {other}"),
        "plugins.p.sha256: the file is another one: its SHA-256 is ",
    );
    assert_refused(&module, "phases: [request_headers]", "it does not export `proxy_on_request_headers`");
    assert_refused(&module, "phases: []", "plugins.p.phases: without a phase");
    assert_refused(&module, "limits: {call: 0s}", "plugins.p.limits.call: a duration of 0");
    assert_refused(&module, "upstreams: [a]", "plugins.p.upstreams: ");
}

#[tokio::test]
async fn a_plugin_that_does_not_exist_and_one_that_nobody_uses_are_told_of() {
    let yaml = "plugins: {waf: {file: nowhere.wasm}}\nlisteners: [{address: '127.0.0.1:0'}]\n\
                routes: [{filters: [{wasm: wuf}], respond: {}}]\n";
    let (_, told, _) = Gateway::start_expecting_failure(yaml, &["check"]).await;
    assert!(told.contains("plugins.waf.file: cannot read the plugin"), "{told}");
    assert!(told.contains("plugin `wuf` does not exist (did you mean `waf`?)"), "{told}");
    let directory = TempDir::new().unwrap();
    put(directory.path(), "p", &written(""));
    let yaml =
        "plugins: {p: {file: p.wasm}}\nlisteners: [{address: '127.0.0.1:0'}]\nroutes: [{respond: {}}]\n";
    std::fs::write(directory.path().join("gateway.yaml"), yaml).unwrap();
    let output = tidegate(directory.path()).args(["check", "-c", "gateway.yaml"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("no filter uses plugin `p`"), "{told}");
}

#[test]
fn a_file_is_looked_at_without_a_configuration() {
    let directory = directory_with(&["headers"]);
    let look = |file: &str| {
        let output = tidegate(directory.path()).args(["plugin", file]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, told) = look("headers.wasm");
    assert_eq!(code, Some(0), "{told}");
    for expected in ["sha256: ", "abi: 0.2.1", "proxy_on_response_headers", "it can be a plugin"] {
        assert!(told.contains(expected), "{expected} is not in {told}");
    }
    let output = tidegate(directory.path()).args(["plugin", "--json", "headers.wasm"]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["abi"], &told["usable"], &told["why"]), (&"0.2.1".into(), &true.into(), &().into()));
    assert!(told["callbacks"].as_array().unwrap().contains(&"proxy_on_response_headers".into()), "{told}");
    put(directory.path(), "wrong", b"\x7fELF");
    let (code, told) = look("wrong.wasm");
    assert!(code == Some(1) && told.contains("it cannot be a plugin: it is compiled already"), "{told}");
}
