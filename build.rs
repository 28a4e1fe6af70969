//! Code for the messages in `proto/`, made without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let of = |name| format!("tidegate/control/v1/{name}.proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(["registry", "configs", "authority", "peers"].map(of))?;
    compiler.open_file("grpc/health/v1/health.proto")?;
    // For clients that have no generated code.
    let descriptors = std::path::Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    let code = tonic_prost_build::configure().build_transport(false).codec_path("crate::wire::Codec");
    code.compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
