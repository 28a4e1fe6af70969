//! What becomes of each directive that nginx knows: one table, so that none is passed over in silence.

use super::{
    guards,
    notes::Notes,
    parser::{Directive, Seen},
};

#[derive(Clone, Copy)]
enum Fate {
    /// Another file of this folder reads it where it holds, and says there what it cannot carry over.
    Read,
    /// Nothing is missing without it.
    Needless(&'static str),
    Left(&'static str),
}

const INSIDE: &str = "since it is about how nginx works inside";
const STATIC: &str = "no files are served here: put a server of files behind it";
const FASTCGI: &str = "upstreams speak HTTP: put a server that does in front of the application";
const LUA: &str = "Lua is not run here: see docs/plugins.md for filters in WebAssembly";
const CACHE: &str = "responses are not cached";
const BUFFERS: &str = "since bodies are passed on as they come";
const TLS: &str = "since TLS is safe as it is here: `tls.ciphers` and `tls.groups` of a listener narrow it";
const BODY: &str = "bodies are not changed";

/// Read in the blocks where they are expected, and left in others.
const READ: &str = "http stream server location upstream events if map split_clients limit_except types \
    listen server_name default_type root alias index try_files internal autoindex \
    return rewrite set break satisfy allow deny auth_basic auth_basic_user_file auth_request auth_request_set \
    proxy_pass grpc_pass proxy_set_header grpc_set_header proxy_hide_header grpc_hide_header add_header expires \
    proxy_connect_timeout proxy_read_timeout proxy_send_timeout grpc_connect_timeout grpc_read_timeout grpc_send_timeout proxy_timeout \
    error_page proxy_intercept_errors proxy_next_upstream proxy_next_upstream_tries proxy_ssl_verify proxy_ssl_name proxy_ssl_trusted_certificate \
    proxy_ssl_certificate proxy_ssl_certificate_key proxy_ssl proxy_redirect proxy_cookie_domain proxy_cookie_path \
    client_max_body_size client_body_timeout client_header_timeout send_timeout keepalive_timeout keepalive_requests http2_max_concurrent_streams \
    large_client_header_buffers limit_req limit_req_zone limit_req_status limit_conn limit_conn_zone limit_conn_status \
    gzip gzip_types gzip_min_length gzip_comp_level ssl_certificate ssl_certificate_key ssl_protocols \
    ssl_client_certificate ssl_verify_client ssl_crl ssl_preread proxy_protocol mirror set_real_ip_from real_ip_header log_format access_log ssl \
    least_conn ip_hash hash random keepalive keepalive_time zone sticky";

const TABLE: &[(&str, Fate)] = &[
    (
        "worker_processes worker_connections worker_rlimit_nofile worker_cpu_affinity worker_priority worker_rlimit_core worker_shutdown_timeout \
         use multi_accept accept_mutex accept_mutex_delay user pid lock_file daemon master_process pcre_jit thread_pool timer_resolution working_directory \
         sendfile sendfile_max_chunk tcp_nopush tcp_nodelay aio aio_write directio output_buffers postpone_output types_hash_max_size \
         types_hash_bucket_size server_names_hash_bucket_size server_names_hash_max_size map_hash_bucket_size map_hash_max_size \
         variables_hash_max_size variables_hash_bucket_size proxy_headers_hash_max_size proxy_headers_hash_bucket_size connection_pool_size \
         request_pool_size client_header_buffer_size open_file_cache open_file_cache_valid open_file_cache_min_uses open_file_cache_errors \
         log_not_found log_subrequest rewrite_log uninitialized_variable_warn keepalive_disable lingering_close lingering_time lingering_timeout \
         reset_timedout_connection limit_req_log_level limit_conn_log_level proxy_temp_path \
         client_body_temp_path max_ranges etag if_modified_since gzip_buffers gzip_http_version gzip_vary \
         http2_recv_buffer_size http2_chunk_size preread_buffer_size preread_timeout \
         proxy_socket_keepalive charset_types chunked_transfer_encoding server_tokens absolute_redirect \
         port_in_redirect server_name_in_redirect",
        Fate::Needless(INSIDE),
    ),
    (
        "proxy_buffering proxy_buffers proxy_buffer_size proxy_busy_buffers_size proxy_max_temp_file_size proxy_temp_file_write_size \
         proxy_request_buffering client_body_buffer_size client_body_in_file_only client_body_in_single_buffer proxy_ignore_client_abort \
         grpc_buffer_size proxy_http_version proxy_pass_header",
        Fate::Needless(BUFFERS),
    ),
    (
        "ssl_session_cache ssl_session_timeout ssl_session_tickets ssl_session_ticket_key ssl_ciphers ssl_prefer_server_ciphers \
         ssl_ecdh_curve ssl_dhparam ssl_buffer_size ssl_early_data ssl_conf_command ssl_handshake_timeout ssl_verify_depth \
         proxy_ssl_protocols proxy_ssl_ciphers proxy_ssl_session_reuse proxy_ssl_server_name proxy_ssl_verify_depth grpc_ssl_server_name http2",
        Fate::Needless(TLS),
    ),
    (
        "ssl_stapling ssl_stapling_verify ssl_trusted_certificate ssl_stapling_file ssl_stapling_responder",
        Fate::Left("there is no OCSP here"),
    ),
    ("ssl_password_file proxy_ssl_password_file", Fate::Left("keys have no passphrase here")),
    ("proxy_ssl_crl", Fate::Left("upstreams' certificates are not looked up in revocation lists")),
    (
        "load_module",
        Fate::Left("modules of nginx are not loaded: each directive of theirs is named where it stands"),
    ),
    ("recursive_error_pages", Fate::Needless("since the page of an error is a file")),
    ("error_log", Fate::Left("the gateway's own messages go to standard output: see `log.level`")),
    ("resolver resolver_timeout", Fate::Left("names are looked up by the system's name servers")),
    ("gzip_static", Fate::Left(STATIC)),
    ("gunzip ssi ssi_types ssi_silent_errors", Fate::Left(BODY)),
    ("merge_slashes", Fate::Left("slashes in a row are one, always")),
    ("env", Fate::Left("it has no equal here")),
    (
        "sub_filter sub_filter_once sub_filter_types sub_filter_last_modified addition_types add_before_body add_after_body charset override_charset",
        Fate::Left(BODY),
    ),
    ("proxy_cookie_flags", Fate::Left("flags of upstreams' cookies are not changed")),
    (
        "proxy_method proxy_set_body",
        Fate::Left("an upstream sees the method and the body that the client has sent"),
    ),
    ("proxy_bind", Fate::Left("the system chooses the address from which upstreams are connected to")),
    (
        "proxy_pass_request_headers proxy_pass_request_body",
        Fate::Left("requests are passed on whole: see docs/filters/headers.md"),
    ),
    ("proxy_ignore_headers proxy_store proxy_store_access proxy_force_ranges", Fate::Left(CACHE)),
    (
        "proxy_next_upstream_timeout",
        Fate::Left("a route's `timeout` bounds the whole request, and not the retries alone"),
    ),
    (
        "limit_rate limit_rate_after proxy_limit_rate proxy_upload_rate proxy_download_rate",
        Fate::Left("bandwidth is not limited"),
    ),
    (
        "limit_req_dry_run limit_conn_dry_run",
        Fate::Left("write `dry_run: true` in the filter, `rate_limit` or `concurrency_limit`"),
    ),
    ("stub_status status", Fate::Left("the admin API has metrics: GET /metrics")),
    (
        "underscores_in_headers ignore_invalid_headers",
        Fate::Left("fields with an underscore are passed on, and invalid ones refused"),
    ),
    (
        "geo geoip_country geoip_city geoip2",
        Fate::Left("nothing goes by where an address is; networks are for `ip_rules`"),
    ),
    ("valid_referers referer_hash_max_size", Fate::Left("write a match on the header `referer`")),
    (
        "secure_link secure_link_md5 secure_link_secret",
        Fate::Left("links are not verified: see docs/filters/jwt.md"),
    ),
    (
        "real_ip_recursive",
        Fate::Needless("since the nearest address that is not trusted is always the client"),
    ),
    ("gzip_proxied gzip_disable", Fate::Left("`compression` goes by `accept-encoding` alone")),
    (
        "dav_methods create_full_put_path dav_access mp4 flv image_filter random_index xslt_stylesheet perl perl_modules js_import js_content slice",
        Fate::Left(STATIC),
    ),
    ("autoindex_exact_size autoindex_localtime autoindex_format disable_symlinks", Fate::Left(STATIC)),
    ("mirror_request_body", Fate::Left("copies have their body, up to 64 KiB")),
    ("http3 quic_retry ssl_reject_handshake", Fate::Left("it has no equal here")),
    ("mail", Fate::Left("mail is not proxied")),
];

/// Names that begin so.
const FAMILIES: &[(&str, &str)] = &[
    ("fastcgi_", FASTCGI),
    ("uwsgi_", FASTCGI),
    ("scgi_", FASTCGI),
    ("memcached_", FASTCGI),
    ("proxy_cache", CACHE),
    ("open_log_file_cache", "log files are written in the background"),
    ("auth_jwt", "see docs/filters/jwt.md for tokens"),
    ("health_check", "write the upstream's `health_check`"),
    ("more_", "write a `headers` filter"),
    ("modsecurity", "see docs/waf.md"),
    ("brotli", "`compression` offers Brotli unless told otherwise"),
];

/// Say what becomes of those that nobody has looked at where they would hold.
pub(super) fn survey(directives: &[Directive], notes: &mut Notes) {
    for directive in directives {
        if directive.seen.get() == Seen::Not {
            settle(directive, notes);
        }
        if TABLES.contains(&directive.name.as_str()) {
            continue;
        }
        if directive.seen.get() == Seen::Left {
            leave_inside(directive, notes);
        }
        survey(directive.inside(), notes);
    }
}

/// What is inside these is no directive.
const TABLES: [&str; 5] = ["types", "map", "geo", "split_clients", "charset_map"];
/// Blocks that others name; one that nobody names changes nothing.
const NAMED: [&str; 3] = ["map", "split_clients", "upstream"];

fn settle(directive: &Directive, notes: &mut Notes) {
    match fate(&directive.name) {
        Fate::Read if directive.name == "types" => {
            notes.needless(directive, "since no files are served here")
        }
        Fate::Read if directive.block.is_some() && !NAMED.contains(&directive.name.as_str()) => {
            notes.leave(directive, "it has no meaning here in this block");
        }
        Fate::Read if guards::is_guard(&directive.name) && directive.first() != "off" => {
            notes.leave(directive, "nothing that was carried over asks for it here");
        }
        Fate::Read => notes.unused(directive),
        Fate::Needless(why) => notes.needless(directive, why),
        Fate::Left(why) => notes.leave(directive, why),
    }
}

/// Each line of what was left as a whole is named.
fn leave_inside(block: &Directive, notes: &mut Notes) {
    for directive in block.inside().iter().filter(|inner| inner.seen.get() == Seen::Not) {
        match fate(&directive.name) {
            Fate::Left(why) => notes.leave(directive, why),
            Fate::Read | Fate::Needless(_) => {
                notes.leave(directive, "it stands in a block that is not carried over")
            }
        }
    }
}

fn fate(name: &str) -> Fate {
    let is_one_of = |names: &str| names.split_ascii_whitespace().any(|one| one == name);
    if is_one_of(READ) {
        return Fate::Read;
    }
    if let Some((_, fate)) = TABLE.iter().find(|(names, _)| is_one_of(names)) {
        return *fate;
    }
    if name.contains("_by_lua") || name.starts_with("lua_") {
        return Fate::Left(LUA);
    }
    let family = FAMILIES.iter().find(|(start, _)| name.starts_with(start));
    Fate::Left(family.map_or("it is not known here", |(_, why)| why))
}
