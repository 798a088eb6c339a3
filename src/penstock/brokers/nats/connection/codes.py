"""Numbers of JetStream's errors, from its source (server/errors.json), and what to do then."""

from __future__ import annotations

from typing import Final

NO_CONSUMER: Final = 10014
NO_MESSAGE: Final = 10037
NAME_IN_USE: Final = 10058
NO_STREAM: Final = 10059
SUBJECT_IN_USE: Final = 10065
FULL: Final = 10077
#: The message is on its way to the cluster's other servers.
IN_FLIGHT: Final = 10158
#: The cluster has no leader just now.
NO_LEADER: Final = 10008
#: Not the leader, no leader, or a moment of change.
NOT_NOW: Final = (NO_LEADER, 10009, 10013)
#: There is no room left for what is to be stored.
NO_STORAGE: Final = (10023, 10028, 10047)
#: The last message is not the one that was told.
WRONG_LAST_ID: Final = 10070
#: Somebody else was faster: in its form with the number, and without.
WRONG_SEQUENCE: Final = (10071, 10164)

ADVICE: Final = {
    10005: "The cluster has too few servers for these replicas: give fewer, or start more servers",
    10023: "The server has no space left for streams: raise max_file_store in its configuration",
    10028: "The account has no space left: raise its limits in the server's configuration",
    10035: "The user is not permitted to use JetStream",
    10039: "JetStream is not enabled for this account: give the account jetstream: enabled",
    10047: "The storage limit of the server is reached: raise max_file_store in its configuration",
    10052: "The configuration of the stream on the server does not allow this",
    10074: "Only a cluster can keep replicas: give replicas=1, or start a cluster",
    10076: "JetStream is not enabled on the server: start nats-server -js",
}
