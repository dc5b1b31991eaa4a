"""The wire: many streams of messages on one connection, in either direction. See ``protocol`` for the rules."""

from shoal.rpc.codec import deserialize, serialize
from shoal.rpc.connection import Connection
from shoal.rpc.dialer import Dialer, adopt, connect
from shoal.rpc.events import Hello
from shoal.rpc.inbound import Call, Handler
from shoal.rpc.keepalive import Keepalive
from shoal.rpc.memory import MemoryNetwork
from shoal.rpc.network import Listener, Network, TcpNetwork
from shoal.rpc.outbound import Answers
from shoal.rpc.server import Server

__all__ = [
    "Answers",
    "Call",
    "Connection",
    "Dialer",
    "Handler",
    "Hello",
    "Keepalive",
    "Listener",
    "MemoryNetwork",
    "Network",
    "Server",
    "TcpNetwork",
    "adopt",
    "connect",
    "deserialize",
    "serialize",
]
