//! The gRPC calls underneath: their paths, and the codecs of both ends.
//!
//! Written by hand: two calls do not earn a code generator, and the server's encoder has to take bytes that were
//! serialised once for all proxies of a scope.

#[cfg(feature = "server")]
pub(crate) mod frame {
    use std::marker::PhantomData;

    use bytes::{BufMut, Bytes};
    use prost::Message;
    use tonic::Status;
    use tonic::codec::{Codec, EncodeBuf, Encoder};
    use tonic_prost::{ProstCodec, ProstDecoder};

    /// A message that is already encoded.
    #[derive(Clone, Debug)]
    pub(crate) struct Frame(pub(crate) Bytes);

    /// Sends [`Frame`]s and receives `M`s.
    #[derive(Debug)]
    pub(crate) struct FrameCodec<M>(PhantomData<M>);

    impl<M> FrameCodec<M> {
        pub(crate) fn new() -> Self {
            Self(PhantomData)
        }
    }

    impl<M: Message + Default + 'static> Codec for FrameCodec<M> {
        type Encode = Frame;
        type Decode = M;
        type Encoder = FrameEncoder;
        type Decoder = ProstDecoder<M>;

        fn encoder(&mut self) -> FrameEncoder {
            FrameEncoder
        }

        fn decoder(&mut self) -> ProstDecoder<M> {
            ProstCodec::<M, M>::raw_decoder(tonic::codec::BufferSettings::default())
        }
    }

    #[derive(Debug)]
    pub(crate) struct FrameEncoder;

    impl Encoder for FrameEncoder {
        type Item = Frame;
        type Error = Status;

        fn encode(&mut self, Frame(bytes): Frame, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
            buffer.reserve(bytes.len());
            buffer.put(bytes);
            Ok(())
        }
    }
}

/// Path of the stream.
pub(crate) const STREAM_PATH: &str = "/fairway.push.v1.Push/Stream";

/// Path of the call that has a certificate signed.
pub(crate) const SIGN_PATH: &str = "/fairway.push.v1.Push/Sign";

/// Metadata that carries the join token, as `Bearer <token>`.
pub(crate) const AUTHORIZATION: &str = "authorization";
