//! Protobuf with small buffers: of thousands of streams most are idle, and each holds its buffers as long as it lives.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{self, BufferSettings};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// A buffer grows with its messages. The library's 8 KiB for each direction are more than most streams ever say at once.
const BUFFER: usize = 1024;
/// So much is put together before it is passed on. A buffer keeps the room for the most that it ever held.
const AT_ONCE: usize = 2 * 1024;

pub(crate) struct Codec<Encoded, Decoded>(PhantomData<(Encoded, Decoded)>);

impl<Encoded, Decoded> Default for Codec<Encoded, Decoded> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

impl<Encoded, Decoded> codec::Codec for Codec<Encoded, Decoded>
where
    Encoded: Message + Send + 'static,
    Decoded: Message + Default + Send + 'static,
{
    type Encode = Encoded;
    type Decode = Decoded;
    type Encoder = ProstEncoder<Encoded>;
    type Decoder = ProstDecoder<Decoded>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, AT_ONCE))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, AT_ONCE))
    }
}
