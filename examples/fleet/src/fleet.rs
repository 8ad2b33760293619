//! Instances of services: bound to their addresses first, then served.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::fault::Fault;
use crate::instance::Instance;
use crate::peers::Peers;
use crate::service::{Service, Version};
use crate::{api_gateway, photo, position_simulator, position_tracker, staff, telemetry, webapp};

/// An instance that holds its address and serves nobody yet.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) service: Service,
    pub(crate) version: Version,
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    fault: Fault,
}

/// All services in all versions, in one process.
#[derive(Debug)]
pub(crate) struct Fleet {
    members: Vec<Member>,
}

impl Member {
    /// # Errors
    /// The address cannot be bound.
    pub(crate) async fn bind(service: Service, version: Version, listen: SocketAddr, fault: Fault) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        Ok(Self { service, version, address: listener.local_addr()?, listener, fault })
    }

    /// Serves until it is dropped.
    pub(crate) async fn run(self, peers: Peers) {
        let instance = Instance::new(self.service, self.version, self.fault);
        match self.service {
            Service::Webapp => serve(self.listener, webapp::router(&instance, peers)).await,
            Service::ApiGateway => serve(self.listener, api_gateway::router(&instance, peers)).await,
            Service::StaffService => serve(self.listener, staff::router(&instance)).await,
            Service::PhotoService => serve(self.listener, photo::router(&instance)).await,
            Service::VehicleTelemetry => serve(self.listener, telemetry::router(&instance)).await,
            Service::PositionTracker => {
                let (router, tell) = position_tracker::start(&instance, peers);
                tokio::join!(serve(self.listener, router), tell);
            }
            Service::PositionSimulator => {
                let drive = position_simulator::drive(Arc::clone(&instance), peers);
                tokio::join!(serve(self.listener, position_simulator::router(&instance)), drive);
            }
        }
    }
}

impl Fleet {
    /// Binds every instance to its own port at this address.
    ///
    /// # Errors
    /// A port is taken, which the message names.
    pub(crate) async fn bind(ip: IpAddr) -> io::Result<Self> {
        let mut members = Vec::new();
        for (service, version) in Service::instances() {
            let listen = SocketAddr::new(ip, service.default_port(version));
            let member = Member::bind(service, version, listen, Fault::default()).await;
            members.push(member.map_err(|error| {
                io::Error::new(error.kind(), format!("{service} {version} cannot listen on {listen}: {error}"))
            })?);
        }
        Ok(Self { members })
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Peers that are called directly, each in its first version: no proxy between the services.
    #[must_use]
    pub(crate) fn direct(&self, peers: Peers) -> Peers {
        let first = self.members.iter().filter(|member| member.version == Version::V1);
        first.fold(peers, |peers, member| peers.at(member.service, member.address.to_string()))
    }

    /// Serves until it is dropped.
    pub(crate) async fn run(self, peers: Peers) {
        let mut tasks: JoinSet<()> = self.members.into_iter().map(|member| member.run(peers.clone())).collect();
        while tasks.join_next().await.is_some() {}
    }
}

async fn serve(listener: TcpListener, router: Router) {
    // Accepting goes on after errors: the result is for those who end it by a signal.
    let _ = axum::serve(listener, router).await;
}
