//! The binary, run as its users run it, with real clients, upstreams and plugins around it. One test program for all, so that
//! it is linked once.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(dead_code, reason = "the harness offers more than the tests of today ask for")]

mod aborts;
mod authority;
mod balancing;
mod client;
mod conformance;
mod descriptors;
mod direct;
mod documents;
mod echo;
mod floods;
mod forward_proxy;
mod frames;
mod harness;
mod head_lines;
mod http2;
mod limits;
mod listeners;
mod live;
mod logs;
mod mesh;
mod messages;
mod mutual;
mod objects;
mod operate;
mod plugin_abi;
mod plugin_callout;
mod plugin_code;
mod plugin_holds;
mod plugin_kit;
mod plugin_phases;
mod plugin_redis;
mod plugin_replies;
mod plugin_rules;
mod plugin_shared;
mod plugin_stream;
mod plugin_tools;
mod plugins;
mod quickstart;
#[path = "../../../weir-net/tests/support/redis_server.rs"]
mod redis_server;
mod refused;
mod routing;
mod settings;
mod shutdown;
mod slow_clients;
mod streams;
mod swap;
mod tcp;
mod tls;
mod traffic;
mod traffic_gateway;
mod typos;
mod upgrades;
