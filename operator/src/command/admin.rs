//! Asks a running Weir: in plain text on this machine, by HTTPS and with a token in a cluster.

use std::{fs, sync::Arc};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::args::AdminArgs;

/// Sends a request; the status and the body of the answer.
pub(super) async fn ask(args: &AdminArgs, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let AdminArgs { admin_address, ca_file, server_name, token_file } = args;
    let nobody = || format!("no Weir answers on {admin_address} (--admin-address)");
    let host = if ca_file.is_some() { server_name.clone() } else { admin_address.to_string() };
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
    if let Some(file) = token_file {
        let token = fs::read_to_string(file).with_context(|| format!("--token-file {}", file.display()))?;
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
    }
    let request = request.body(Empty::new()).context("--token-file, --server-name")?;
    let stream = TcpStream::connect(admin_address).await.with_context(nobody)?;
    let Some(file) = ca_file else { return send(stream, request).await.with_context(nobody) };
    let mut roots = RootCertStore::empty();
    let pem = fs::read(file).with_context(|| format!("--ca-file {}", file.display()))?;
    let (trusted, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    anyhow::ensure!(trusted > 0, "--ca-file {} has no certificate that can be trusted: expected PEM", file.display());
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(server_name.clone()).context("--server-name")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = stream.with_context(|| format!("the Weir on {admin_address} is not {server_name} by --ca-file"))?;
    send(stream, request).await.with_context(nobody)
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        anyhow::Ok((status, answer.into_body().collect().await?.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => {
            ended?;
            answer.await
        }
    }
}
