//! Code for the messages in `proto/`, made without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let of = |name| format!("tidegate/control/v1/{name}.proto");
    let files = protox::compile(["registry", "configs", "authority", "peers"].map(of), ["proto"])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(files)?;
    Ok(())
}
