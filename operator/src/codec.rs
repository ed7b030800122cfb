//! Messages to and from other processes: the frame that our gRPC services share, whatever form a message has inside; and in `known`, JSON of
//! another version of Weir, read as far as this one knows it. Knows no message itself.

pub mod known;

use std::marker::PhantomData;

use tonic::{
    Status,
    codec::{Decoder, Encoder},
};

/// A form that messages of type `T` have on the wire.
pub trait Form<T> {
    /// Writes them.
    type Encoder: Encoder<Item = T, Error = Status> + Send + 'static;
    /// Reads them.
    type Decoder: Decoder<Item = T, Error = Status> + Send + 'static;

    /// For one stream.
    fn encoder() -> Self::Encoder;
    /// For one stream.
    fn decoder() -> Self::Decoder;
}

/// Sends messages `T` and takes messages `U`, both in the form `F`.
#[derive(Clone, Copy, Debug)]
pub struct Codec<F, T, U>(PhantomData<(F, T, U)>);

impl<F, T, U> Default for Codec<F, T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<F, T, U> tonic::codec::Codec for Codec<F, T, U>
where
    F: Form<T> + Form<U>,
    T: Send + 'static,
    U: Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <F as Form<T>>::Encoder;
    type Decoder = <F as Form<U>>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        <F as Form<T>>::encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        <F as Form<U>>::decoder()
    }
}
