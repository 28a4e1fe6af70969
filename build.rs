//! Code for the messages in `proto/`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files = ["registry", "configs", "authority", "peers"]
        .map(|name| format!("proto/tidegate/control/v1/{name}.proto"))
        .to_vec();
    files.push("proto/grpc/health/v1/health.proto".to_owned());
    // For clients that have no generated code.
    let descriptors = std::path::Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin");
    let code = tonic_prost_build::configure().build_transport(false).codec_path("crate::wire::Codec");
    code.file_descriptor_set_path(descriptors).compile_protos(&files, &["proto".to_owned()])?;
    Ok(())
}
