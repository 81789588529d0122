"""Every error that the JetStream API answers with: its number, the HTTP-like code beside it, and its text.

The numbers and texts are nats-server's (server/errors.json; Copyright The NATS Authors, Apache License 2.0), because
clients test the numbers and people search for the texts. `{word}` in a text is filled in by whoever raises.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Code(IntEnum):
    """`err_code` in an answer."""

    ACCOUNT_RESOURCES_EXCEEDED = 10002
    BAD_REQUEST = 10003
    CLUSTER_INCOMPLETE = 10004
    CLUSTER_NO_PEERS = 10005
    CLUSTER_NOT_ACTIVE = 10006
    CLUSTER_NOT_ASSIGNED = 10007
    CLUSTER_NOT_AVAIL = 10008
    CLUSTER_NOT_LEADER = 10009
    CLUSTER_REQUIRED = 10010
    CLUSTER_TAGS = 10011
    CONSUMER_CREATE = 10012
    CONSUMER_NAME_EXIST = 10013
    CONSUMER_NOT_FOUND = 10014
    SNAPSHOT_DELIVER_SUBJECT_INVALID = 10015
    CONSUMER_DURABLE_NAME_NOT_IN_SUBJECT = 10016
    CONSUMER_DURABLE_NAME_NOT_MATCH_SUBJECT = 10017
    CONSUMER_DURABLE_NAME_NOT_SET = 10018
    CONSUMER_EPHEMERAL_WITH_DURABLE_IN_SUBJECT = 10019
    CONSUMER_EPHEMERAL_WITH_DURABLE_NAME = 10020
    STREAM_EXTERNAL_API_OVERLAP = 10021
    STREAM_EXTERNAL_DEL_PREFIX_OVERLAPS = 10022
    INSUFFICIENT_RESOURCES = 10023
    STREAM_INVALID_EXTERNAL_DELIVERY_SUBJ = 10024
    INVALID_JSON = 10025
    MAXIMUM_CONSUMERS_LIMIT = 10026
    MAXIMUM_STREAMS_LIMIT = 10027
    MEMORY_RESOURCES_EXCEEDED = 10028
    MIRROR_CONSUMER_SETUP_FAILED = 10029
    MIRROR_MAX_MESSAGE_SIZE_TOO_BIG = 10030
    MIRROR_WITH_SOURCES = 10031
    MIRROR_WITH_START_SEQ_AND_TIME = 10032
    MIRROR_WITH_SUBJECT_FILTERS = 10033
    MIRROR_WITH_SUBJECTS = 10034
    NO_ACCOUNT = 10035
    CLUSTER_UN_SUPPORT_FEATURE = 10036
    NO_MESSAGE_FOUND = 10037
    NOT_EMPTY_REQUEST = 10038
    NOT_ENABLED_FOR_ACCOUNT = 10039
    CLUSTER_PEER_NOT_MEMBER = 10040
    RAFT_GENERAL = 10041
    RESTORE_SUBSCRIBE_FAILED = 10042
    SEQUENCE_NOT_FOUND = 10043
    CLUSTER_SERVER_NOT_MEMBER = 10044
    SOURCE_CONSUMER_SETUP_FAILED = 10045
    SOURCE_MAX_MESSAGE_SIZE_TOO_BIG = 10046
    STORAGE_RESOURCES_EXCEEDED = 10047
    STREAM_ASSIGNMENT = 10048
    STREAM_CREATE = 10049
    STREAM_DELETE = 10050
    STREAM_GENERAL_ERROR = 10051
    STREAM_INVALID_CONFIG = 10052
    STREAM_LIMITS = 10053
    STREAM_MESSAGE_EXCEEDS_MAXIMUM = 10054
    STREAM_MIRROR_NOT_UPDATABLE = 10055
    STREAM_MISMATCH = 10056
    STREAM_MSG_DELETE_FAILED = 10057
    STREAM_NAME_EXIST = 10058
    STREAM_NOT_FOUND = 10059
    STREAM_NOT_MATCH = 10060
    STREAM_REPLICAS_NOT_UPDATABLE = 10061
    STREAM_RESTORE = 10062
    STREAM_SEQUENCE_NOT_MATCH = 10063
    STREAM_SNAPSHOT = 10064
    STREAM_SUBJECT_OVERLAP = 10065
    STREAM_TEMPLATE_CREATE = 10066
    STREAM_TEMPLATE_DELETE = 10067
    STREAM_TEMPLATE_NOT_FOUND = 10068
    STREAM_UPDATE = 10069
    STREAM_WRONG_LAST_MSG_ID = 10070
    STREAM_WRONG_LAST_SEQUENCE = 10071
    TEMP_STORAGE_FAILED = 10072
    TEMPLATE_NAME_NOT_MATCH_SUBJECT = 10073
    STREAM_REPLICAS_NOT_SUPPORTED = 10074
    PEER_REMAP = 10075
    NOT_ENABLED = 10076
    STREAM_STORE_FAILED = 10077
    CONSUMER_CONFIG_REQUIRED = 10078
    CONSUMER_DELIVER_TO_WILDCARDS = 10079
    CONSUMER_PUSH_MAX_WAITING = 10080
    CONSUMER_DELIVER_CYCLE = 10081
    CONSUMER_MAX_PENDING_ACK_POLICY_REQUIRED = 10082
    CONSUMER_SMALL_HEARTBEAT = 10083
    CONSUMER_PULL_REQUIRES_ACK = 10084
    CONSUMER_PULL_NOT_DURABLE = 10085
    CONSUMER_PULL_WITH_RATE_LIMIT = 10086
    CONSUMER_MAX_WAITING_NEGATIVE = 10087
    CONSUMER_HB_REQUIRES_PUSH = 10088
    CONSUMER_FC_REQUIRES_PUSH = 10089
    CONSUMER_DIRECT_REQUIRES_PUSH = 10090
    CONSUMER_DIRECT_REQUIRES_EPHEMERAL = 10091
    CONSUMER_ON_MAPPED = 10092
    CONSUMER_FILTER_NOT_SUBSET = 10093
    CONSUMER_INVALID_POLICY = 10094
    CONSUMER_INVALID_SAMPLING = 10095
    STREAM_INVALID = 10096
    STREAM_HEADER_EXCEEDS_MAXIMUM = 10097
    CONSUMER_WQ_REQUIRES_EXPLICIT_ACK = 10098
    CONSUMER_WQ_MULTIPLE_UNFILTERED = 10099
    CONSUMER_WQ_CONSUMER_NOT_UNIQUE = 10100
    CONSUMER_WQ_CONSUMER_NOT_DELIVER_ALL = 10101
    CONSUMER_NAME_TOO_LONG = 10102
    CONSUMER_BAD_DURABLE_NAME = 10103
    CONSUMER_STORE_FAILED = 10104
    CONSUMER_EXISTING_ACTIVE = 10105
    CONSUMER_REPLACEMENT_WITH_DIFFERENT_NAME = 10106
    CONSUMER_DESCRIPTION_TOO_LONG = 10107
    CONSUMER_WITH_FLOW_CONTROL_NEEDS_HEARTBEATS = 10108
    STREAM_SEALED = 10109
    STREAM_PURGE_FAILED = 10110
    STREAM_ROLLUP_FAILED = 10111
    CONSUMER_INVALID_DELIVER_SUBJECT = 10112
    STREAM_MAX_BYTES_REQUIRED = 10113
    CONSUMER_MAX_REQUEST_BATCH_NEGATIVE = 10114
    CONSUMER_MAX_REQUEST_EXPIRES_TOO_SMALL = 10115
    CONSUMER_MAX_DELIVER_BACKOFF = 10116
    STREAM_INFO_MAX_SUBJECTS = 10117
    STREAM_OFFLINE = 10118
    CONSUMER_OFFLINE = 10119
    NO_LIMITS = 10120
    CONSUMER_MAX_PENDING_ACK_EXCESS = 10121
    STREAM_MAX_STREAM_BYTES_EXCEEDED = 10122
    STREAM_MOVE_AND_SCALE = 10123
    STREAM_MOVE_IN_PROGRESS = 10124
    CONSUMER_MAX_REQUEST_BATCH_EXCEEDED = 10125
    CONSUMER_REPLICAS_EXCEEDS_STREAM = 10126
    CONSUMER_NAME_CONTAINS_PATH_SEPARATORS = 10127
    STREAM_NAME_CONTAINS_PATH_SEPARATORS = 10128
    STREAM_RECONFIGURE_NOT_IN_PROGRESS = 10129
    STREAM_NAME_EXIST_RESTORE_FAILED = 10130
    CONSUMER_CREATE_FILTER_SUBJECT_MISMATCH = 10131
    CONSUMER_CREATE_DURABLE_AND_NAME_MISMATCH = 10132
    REPLICAS_COUNT_CANNOT_BE_NEGATIVE = 10133
    CONSUMER_REPLICAS_SHOULD_MATCH_STREAM = 10134
    CONSUMER_METADATA_LENGTH = 10135
    CONSUMER_DUPLICATE_FILTER_SUBJECTS = 10136
    CONSUMER_MULTIPLE_FILTERS_NOT_ALLOWED = 10137
    CONSUMER_OVERLAPPING_SUBJECT_FILTERS = 10138
    CONSUMER_EMPTY_FILTER = 10139
    SOURCE_DUPLICATE_DETECTED = 10140
    SOURCE_INVALID_STREAM_NAME = 10141
    MIRROR_INVALID_STREAM_NAME = 10142
    MIRROR_WITH_FIRST_SEQ = 10143
    SOURCE_MULTIPLE_FILTERS_NOT_ALLOWED = 10144
    SOURCE_INVALID_SUBJECT_FILTER = 10145
    SOURCE_INVALID_TRANSFORM_DESTINATION = 10146
    SOURCE_OVERLAPPING_SUBJECT_FILTERS = 10147
    CONSUMER_ALREADY_EXISTS = 10148
    CONSUMER_DOES_NOT_EXIST = 10149
    MIRROR_MULTIPLE_FILTERS_NOT_ALLOWED = 10150
    MIRROR_INVALID_SUBJECT_FILTER = 10151
    MIRROR_OVERLAPPING_SUBJECT_FILTERS = 10152
    CONSUMER_INACTIVE_THRESHOLD_EXCESS = 10153
    MIRROR_INVALID_TRANSFORM_DESTINATION = 10154
    STREAM_TRANSFORM_INVALID_SOURCE = 10155
    STREAM_TRANSFORM_INVALID_DESTINATION = 10156
    PEDANTIC = 10157
    STREAM_DUPLICATE_MESSAGE_CONFLICT = 10158
    CONSUMER_PRIORITY_POLICY_WITHOUT_GROUP = 10159
    CONSUMER_INVALID_PRIORITY_GROUP = 10160
    CONSUMER_EMPTY_GROUP_NAME = 10161
    CONSUMER_INVALID_GROUP_NAME = 10162
    STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_NOT_READY = 10163
    STREAM_WRONG_LAST_SEQUENCE_CONSTANT = 10164
    MESSAGE_TTL_INVALID = 10165
    MESSAGE_TTL_DISABLED = 10166
    STREAM_TOO_MANY_REQUESTS = 10167
    MESSAGE_INCR_DISABLED = 10168
    MESSAGE_INCR_MISSING = 10169
    MESSAGE_INCR_PAYLOAD = 10170
    MESSAGE_INCR_INVALID = 10171
    MESSAGE_COUNTER_BROKEN = 10172
    MIRROR_WITH_COUNTERS = 10173
    ATOMIC_PUBLISH_DISABLED = 10174
    ATOMIC_PUBLISH_MISSING_SEQ = 10175
    ATOMIC_PUBLISH_INCOMPLETE_BATCH = 10176
    ATOMIC_PUBLISH_UNSUPPORTED_HEADER_BATCH = 10177
    CONSUMER_PUSH_WITH_PRIORITY_GROUP = 10178
    ATOMIC_PUBLISH_INVALID_BATCH_ID = 10179
    STREAM_MIN_LAST_SEQ = 10180
    CONSUMER_ACK_POLICY_INVALID = 10181
    CONSUMER_REPLAY_POLICY_INVALID = 10182
    CONSUMER_ACK_WAIT_NEGATIVE = 10183
    CONSUMER_BACK_OFF_NEGATIVE = 10184
    REQUIRED_API_LEVEL = 10185
    MIRROR_WITH_MSG_SCHEDULES = 10186
    SOURCE_WITH_MSG_SCHEDULES = 10187
    MESSAGE_SCHEDULES_DISABLED = 10188
    MESSAGE_SCHEDULES_PATTERN_INVALID = 10189
    MESSAGE_SCHEDULES_TARGET_INVALID = 10190
    MESSAGE_SCHEDULES_TTL_INVALID = 10191
    MESSAGE_SCHEDULES_ROLLUP_INVALID = 10192
    STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_INVALID = 10193
    STREAM_OFFLINE_REASON = 10194
    CONSUMER_OFFLINE_REASON = 10195
    CONSUMER_PRIORITY_GROUP_WITH_POLICY_NONE = 10196
    CONSUMER_PINNED_TTL_WITHOUT_PRIORITY_POLICY_NONE = 10197
    MIRROR_WITH_ATOMIC_PUBLISH = 10198
    ATOMIC_PUBLISH_TOO_LARGE_BATCH = 10199
    ATOMIC_PUBLISH_INVALID_BATCH_COMMIT = 10200
    ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE = 10201
    CLUSTER_SERVER_MEMBER_CHANGE_INFLIGHT = 10202
    MESSAGE_SCHEDULES_SOURCE_INVALID = 10203
    CONSUMER_INVALID_RESET = 10204
    BATCH_PUBLISH_DISABLED = 10205
    BATCH_PUBLISH_INVALID_PATTERN = 10206
    BATCH_PUBLISH_INVALID_BATCH_ID = 10207
    BATCH_PUBLISH_UNKNOWN_BATCH_ID = 10208
    MIRROR_WITH_BATCH_PUBLISH = 10209
    ATOMIC_PUBLISH_TOO_MANY_INFLIGHT = 10210
    BATCH_PUBLISH_TOO_MANY_INFLIGHT = 10211
    MESSAGE_SCHEDULES_SCHEDULER_INVALID = 10212
    MIRROR_DURABLE_CONSUMER_CFG_INVALID = 10213
    MIRROR_CONSUMER_REQUIRES_ACK_FC = 10214
    SOURCE_DURABLE_CONSUMER_CFG_INVALID = 10215
    SOURCE_DURABLE_CONSUMER_DUPLICATE_DETECTED = 10216
    SOURCE_CONSUMER_REQUIRES_ACK_FC = 10217
    CONSUMER_ACK_FC_REQUIRES_PUSH = 10218
    CONSUMER_ACK_FC_REQUIRES_FC = 10219
    CONSUMER_ACK_FC_REQUIRES_MAX_ACK_PENDING = 10220
    CONSUMER_ACK_FC_REQUIRES_NO_ACK_WAIT = 10221
    CONSUMER_ACK_FC_REQUIRES_NO_MAX_DELIVER = 10222
    MESSAGE_SCHEDULES_TIME_ZONE_INVALID = 10223
    CLUSTER_RESCUE = 10224
    CONSUMER_STREAM_IDENTITY_MISMATCH = 10225
    STREAM_RECONFIGURE_IN_PROGRESS = 10226
    MESSAGE_SOURCE_HDR_NOT_ALLOWED = 10227


# err_code: (code, description)
TEXTS: Final[dict[Code, tuple[int, str]]] = {
    Code.ACCOUNT_RESOURCES_EXCEEDED: (400, "resource limits exceeded for account"),
    Code.BAD_REQUEST: (400, "bad request"),
    Code.CLUSTER_INCOMPLETE: (503, "incomplete results"),
    Code.CLUSTER_NO_PEERS: (400, "{err}"),
    Code.CLUSTER_NOT_ACTIVE: (500, "JetStream not in clustered mode"),
    Code.CLUSTER_NOT_ASSIGNED: (500, "JetStream cluster not assigned to this server"),
    Code.CLUSTER_NOT_AVAIL: (503, "JetStream system temporarily unavailable"),
    Code.CLUSTER_NOT_LEADER: (500, "JetStream cluster can not handle request"),
    Code.CLUSTER_REQUIRED: (503, "JetStream clustering support required"),
    Code.CLUSTER_TAGS: (400, "tags placement not supported for operation"),
    Code.CONSUMER_CREATE: (500, "{err}"),
    Code.CONSUMER_NAME_EXIST: (400, "consumer name already in use"),
    Code.CONSUMER_NOT_FOUND: (404, "consumer not found"),
    Code.SNAPSHOT_DELIVER_SUBJECT_INVALID: (400, "deliver subject not valid"),
    Code.CONSUMER_DURABLE_NAME_NOT_IN_SUBJECT: (
        400, "consumer expected to be durable but no durable name set in subject"),
    Code.CONSUMER_DURABLE_NAME_NOT_MATCH_SUBJECT: (
        400, "consumer name in subject does not match durable name in request"),
    Code.CONSUMER_DURABLE_NAME_NOT_SET: (
        400, "consumer expected to be durable but a durable name was not set"),
    Code.CONSUMER_EPHEMERAL_WITH_DURABLE_IN_SUBJECT: (
        400, "consumer expected to be ephemeral but detected a durable name set in subject"),
    Code.CONSUMER_EPHEMERAL_WITH_DURABLE_NAME: (
        400, "consumer expected to be ephemeral but a durable name was set in request"),
    Code.STREAM_EXTERNAL_API_OVERLAP: (
        400, "stream external api prefix {prefix} must not overlap with {subject}"),
    Code.STREAM_EXTERNAL_DEL_PREFIX_OVERLAPS: (
        400, "stream external delivery prefix {prefix} overlaps with stream subject {subject}"),
    Code.INSUFFICIENT_RESOURCES: (503, "insufficient resources"),
    Code.STREAM_INVALID_EXTERNAL_DELIVERY_SUBJ: (
        400, "stream external delivery prefix {prefix} must not contain wildcards"),
    Code.INVALID_JSON: (400, "invalid JSON: {err}"),
    Code.MAXIMUM_CONSUMERS_LIMIT: (400, "maximum consumers limit reached"),
    Code.MAXIMUM_STREAMS_LIMIT: (400, "maximum number of streams reached"),
    Code.MEMORY_RESOURCES_EXCEEDED: (500, "insufficient memory resources available"),
    Code.MIRROR_CONSUMER_SETUP_FAILED: (500, "{err}"),
    Code.MIRROR_MAX_MESSAGE_SIZE_TOO_BIG: (400, "stream mirror must have max message size >= source"),
    Code.MIRROR_WITH_SOURCES: (400, "stream mirrors can not also contain other sources"),
    Code.MIRROR_WITH_START_SEQ_AND_TIME: (
        400, "stream mirrors can not have both start seq and start time configured"),
    Code.MIRROR_WITH_SUBJECT_FILTERS: (400, "stream mirrors can not contain filtered subjects"),
    Code.MIRROR_WITH_SUBJECTS: (400, "stream mirrors can not contain subjects"),
    Code.NO_ACCOUNT: (503, "account not found"),
    Code.CLUSTER_UN_SUPPORT_FEATURE: (503, "not currently supported in clustered mode"),
    Code.NO_MESSAGE_FOUND: (404, "no message found"),
    Code.NOT_EMPTY_REQUEST: (400, "expected an empty request payload"),
    Code.NOT_ENABLED_FOR_ACCOUNT: (503, "JetStream not enabled for account"),
    Code.CLUSTER_PEER_NOT_MEMBER: (400, "peer not a member"),
    Code.RAFT_GENERAL: (500, "{err}"),
    Code.RESTORE_SUBSCRIBE_FAILED: (
        500, "JetStream unable to subscribe to restore snapshot {subject}: {err}"),
    Code.SEQUENCE_NOT_FOUND: (400, "sequence {seq} not found"),
    Code.CLUSTER_SERVER_NOT_MEMBER: (400, "server is not a member of the cluster"),
    Code.SOURCE_CONSUMER_SETUP_FAILED: (500, "{err}"),
    Code.SOURCE_MAX_MESSAGE_SIZE_TOO_BIG: (400, "stream source must have max message size >= target"),
    Code.STORAGE_RESOURCES_EXCEEDED: (500, "insufficient storage resources available"),
    Code.STREAM_ASSIGNMENT: (500, "{err}"),
    Code.STREAM_CREATE: (500, "{err}"),
    Code.STREAM_DELETE: (500, "{err}"),
    Code.STREAM_GENERAL_ERROR: (500, "{err}"),
    Code.STREAM_INVALID_CONFIG: (500, "{err}"),
    Code.STREAM_LIMITS: (500, "{err}"),
    Code.STREAM_MESSAGE_EXCEEDS_MAXIMUM: (400, "message size exceeds maximum allowed"),
    Code.STREAM_MIRROR_NOT_UPDATABLE: (400, "stream mirror configuration can not be updated"),
    Code.STREAM_MISMATCH: (400, "stream name in subject does not match request"),
    Code.STREAM_MSG_DELETE_FAILED: (500, "{err}"),
    Code.STREAM_NAME_EXIST: (400, "stream name already in use with a different configuration"),
    Code.STREAM_NOT_FOUND: (404, "stream not found"),
    Code.STREAM_NOT_MATCH: (400, "expected stream does not match"),
    Code.STREAM_REPLICAS_NOT_UPDATABLE: (400, "Replicas configuration can not be updated"),
    Code.STREAM_RESTORE: (500, "restore failed: {err}"),
    Code.STREAM_SEQUENCE_NOT_MATCH: (503, "expected stream sequence does not match"),
    Code.STREAM_SNAPSHOT: (500, "snapshot failed: {err}"),
    Code.STREAM_SUBJECT_OVERLAP: (400, "subjects overlap with an existing stream"),
    Code.STREAM_TEMPLATE_CREATE: (500, "{err}"),
    Code.STREAM_TEMPLATE_DELETE: (500, "{err}"),
    Code.STREAM_TEMPLATE_NOT_FOUND: (404, "template not found"),
    Code.STREAM_UPDATE: (500, "{err}"),
    Code.STREAM_WRONG_LAST_MSG_ID: (400, "wrong last msg ID: {id}"),
    Code.STREAM_WRONG_LAST_SEQUENCE: (400, "wrong last sequence: {seq}"),
    Code.TEMP_STORAGE_FAILED: (500, "JetStream unable to open temp storage for restore"),
    Code.TEMPLATE_NAME_NOT_MATCH_SUBJECT: (400, "template name in subject does not match request"),
    Code.STREAM_REPLICAS_NOT_SUPPORTED: (500, "replicas > 1 not supported in non-clustered mode"),
    Code.PEER_REMAP: (503, "peer remap failed"),
    Code.NOT_ENABLED: (503, "JetStream not enabled"),
    Code.STREAM_STORE_FAILED: (503, "{err}"),
    Code.CONSUMER_CONFIG_REQUIRED: (400, "consumer config required"),
    Code.CONSUMER_DELIVER_TO_WILDCARDS: (400, "consumer deliver subject has wildcards"),
    Code.CONSUMER_PUSH_MAX_WAITING: (400, "consumer in push mode can not set max waiting"),
    Code.CONSUMER_DELIVER_CYCLE: (400, "consumer deliver subject forms a cycle"),
    Code.CONSUMER_MAX_PENDING_ACK_POLICY_REQUIRED: (400, "consumer requires ack policy for max ack pending"),
    Code.CONSUMER_SMALL_HEARTBEAT: (400, "consumer idle heartbeat needs to be >= 100ms"),
    Code.CONSUMER_PULL_REQUIRES_ACK: (
        400, "consumer in pull mode requires explicit ack policy on workqueue stream"),
    Code.CONSUMER_PULL_NOT_DURABLE: (400, "consumer in pull mode requires a durable name"),
    Code.CONSUMER_PULL_WITH_RATE_LIMIT: (400, "consumer in pull mode can not have rate limit set"),
    Code.CONSUMER_MAX_WAITING_NEGATIVE: (400, "consumer max waiting needs to be positive"),
    Code.CONSUMER_HB_REQUIRES_PUSH: (400, "consumer idle heartbeat requires a push based consumer"),
    Code.CONSUMER_FC_REQUIRES_PUSH: (400, "consumer flow control requires a push based consumer"),
    Code.CONSUMER_DIRECT_REQUIRES_PUSH: (400, "consumer direct requires a push based consumer"),
    Code.CONSUMER_DIRECT_REQUIRES_EPHEMERAL: (400, "consumer direct requires an ephemeral consumer"),
    Code.CONSUMER_ON_MAPPED: (400, "consumer direct on a mapped consumer"),
    Code.CONSUMER_FILTER_NOT_SUBSET: (
        400, "consumer filter subject is not a valid subset of the interest subjects"),
    Code.CONSUMER_INVALID_POLICY: (400, "{err}"),
    Code.CONSUMER_INVALID_SAMPLING: (400, "failed to parse consumer sampling configuration: {err}"),
    Code.STREAM_INVALID: (500, "stream not valid"),
    Code.STREAM_HEADER_EXCEEDS_MAXIMUM: (400, "header size exceeds maximum allowed of 64k"),
    Code.CONSUMER_WQ_REQUIRES_EXPLICIT_ACK: (400, "workqueue stream requires explicit ack"),
    Code.CONSUMER_WQ_MULTIPLE_UNFILTERED: (
        400, "multiple non-filtered consumers not allowed on workqueue stream"),
    Code.CONSUMER_WQ_CONSUMER_NOT_UNIQUE: (400, "filtered consumer not unique on workqueue stream"),
    Code.CONSUMER_WQ_CONSUMER_NOT_DELIVER_ALL: (400, "consumer must be deliver all on workqueue stream"),
    Code.CONSUMER_NAME_TOO_LONG: (400, "consumer name is too long, maximum allowed is {max}"),
    Code.CONSUMER_BAD_DURABLE_NAME: (400, "durable name can not contain '.', '*', '>'"),
    Code.CONSUMER_STORE_FAILED: (500, "error creating store for consumer: {err}"),
    Code.CONSUMER_EXISTING_ACTIVE: (400, "consumer already exists and is still active"),
    Code.CONSUMER_REPLACEMENT_WITH_DIFFERENT_NAME: (400, "consumer replacement durable config not the same"),
    Code.CONSUMER_DESCRIPTION_TOO_LONG: (400, "consumer description is too long, maximum allowed is {max}"),
    Code.CONSUMER_WITH_FLOW_CONTROL_NEEDS_HEARTBEATS: (
        400, "consumer with flow control also needs heartbeats"),
    Code.STREAM_SEALED: (400, "invalid operation on sealed stream"),
    Code.STREAM_PURGE_FAILED: (500, "{err}"),
    Code.STREAM_ROLLUP_FAILED: (500, "{err}"),
    Code.CONSUMER_INVALID_DELIVER_SUBJECT: (400, "invalid push consumer deliver subject"),
    Code.STREAM_MAX_BYTES_REQUIRED: (400, "account requires a stream config to have max bytes set"),
    Code.CONSUMER_MAX_REQUEST_BATCH_NEGATIVE: (400, "consumer max request batch needs to be > 0"),
    Code.CONSUMER_MAX_REQUEST_EXPIRES_TOO_SMALL: (400, "consumer max request expires needs to be >= 1ms"),
    Code.CONSUMER_MAX_DELIVER_BACKOFF: (400, "max deliver is required to be > length of backoff values"),
    Code.STREAM_INFO_MAX_SUBJECTS: (500, "subject details would exceed maximum allowed"),
    Code.STREAM_OFFLINE: (500, "stream is offline"),
    Code.CONSUMER_OFFLINE: (500, "consumer is offline"),
    Code.NO_LIMITS: (400, "no JetStream default or applicable tiered limit present"),
    Code.CONSUMER_MAX_PENDING_ACK_EXCESS: (400, "consumer max ack pending exceeds system limit of {limit}"),
    Code.STREAM_MAX_STREAM_BYTES_EXCEEDED: (400, "stream max bytes exceeds account limit max stream bytes"),
    Code.STREAM_MOVE_AND_SCALE: (400, "can not move and scale a stream in a single update"),
    Code.STREAM_MOVE_IN_PROGRESS: (400, "stream move already in progress"),
    Code.CONSUMER_MAX_REQUEST_BATCH_EXCEEDED: (
        400, "consumer max request batch exceeds server limit of {limit}"),
    Code.CONSUMER_REPLICAS_EXCEEDS_STREAM: (400, "consumer config replica count exceeds parent stream"),
    Code.CONSUMER_NAME_CONTAINS_PATH_SEPARATORS: (400, "Consumer name can not contain path separators"),
    Code.STREAM_NAME_CONTAINS_PATH_SEPARATORS: (400, "Stream name can not contain path separators"),
    Code.STREAM_RECONFIGURE_NOT_IN_PROGRESS: (400, "stream reconfiguration not in progress"),
    Code.STREAM_NAME_EXIST_RESTORE_FAILED: (400, "stream name already in use, cannot restore"),
    Code.CONSUMER_CREATE_FILTER_SUBJECT_MISMATCH: (
        400, "Consumer create request did not match filtered subject from create subject"),
    Code.CONSUMER_CREATE_DURABLE_AND_NAME_MISMATCH: (
        400, "Consumer Durable and Name have to be equal if both are provided"),
    Code.REPLICAS_COUNT_CANNOT_BE_NEGATIVE: (400, "replicas count cannot be negative"),
    Code.CONSUMER_REPLICAS_SHOULD_MATCH_STREAM: (
        400, "consumer config replicas must match interest retention stream's replicas"),
    Code.CONSUMER_METADATA_LENGTH: (400, "consumer metadata exceeds maximum size of {limit}"),
    Code.CONSUMER_DUPLICATE_FILTER_SUBJECTS: (
        400, "consumer cannot have both FilterSubject and FilterSubjects specified"),
    Code.CONSUMER_MULTIPLE_FILTERS_NOT_ALLOWED: (
        400, "consumer with multiple subject filters cannot use subject based API"),
    Code.CONSUMER_OVERLAPPING_SUBJECT_FILTERS: (400, "consumer subject filters cannot overlap"),
    Code.CONSUMER_EMPTY_FILTER: (400, "consumer filter in FilterSubjects cannot be empty"),
    Code.SOURCE_DUPLICATE_DETECTED: (400, "duplicate source configuration detected"),
    Code.SOURCE_INVALID_STREAM_NAME: (400, "sourced stream name is invalid"),
    Code.MIRROR_INVALID_STREAM_NAME: (400, "mirrored stream name is invalid"),
    Code.MIRROR_WITH_FIRST_SEQ: (400, "stream mirrors can not have first sequence configured"),
    Code.SOURCE_MULTIPLE_FILTERS_NOT_ALLOWED: (
        400, "source with multiple subject transforms cannot also have a single subject filter"),
    Code.SOURCE_INVALID_SUBJECT_FILTER: (400, "source transform source: {err}"),
    Code.SOURCE_INVALID_TRANSFORM_DESTINATION: (400, "source transform: {err}"),
    Code.SOURCE_OVERLAPPING_SUBJECT_FILTERS: (400, "source filters can not overlap"),
    Code.CONSUMER_ALREADY_EXISTS: (400, "consumer already exists"),
    Code.CONSUMER_DOES_NOT_EXIST: (400, "consumer does not exist"),
    Code.MIRROR_MULTIPLE_FILTERS_NOT_ALLOWED: (
        400, "mirror with multiple subject transforms cannot also have a single subject filter"),
    Code.MIRROR_INVALID_SUBJECT_FILTER: (400, "mirror transform source: {err}"),
    Code.MIRROR_OVERLAPPING_SUBJECT_FILTERS: (400, "mirror subject filters can not overlap"),
    Code.CONSUMER_INACTIVE_THRESHOLD_EXCESS: (
        400, "consumer inactive threshold exceeds system limit of {limit}"),
    Code.MIRROR_INVALID_TRANSFORM_DESTINATION: (400, "mirror transform: {err}"),
    Code.STREAM_TRANSFORM_INVALID_SOURCE: (400, "stream transform source: {err}"),
    Code.STREAM_TRANSFORM_INVALID_DESTINATION: (400, "stream transform: {err}"),
    Code.PEDANTIC: (400, "pedantic mode: {err}"),
    Code.STREAM_DUPLICATE_MESSAGE_CONFLICT: (409, "duplicate message id is in process"),
    Code.CONSUMER_PRIORITY_POLICY_WITHOUT_GROUP: (
        400, "Setting PriorityPolicy requires at least one PriorityGroup to be set"),
    Code.CONSUMER_INVALID_PRIORITY_GROUP: (400, "Provided priority group does not exist for this consumer"),
    Code.CONSUMER_EMPTY_GROUP_NAME: (400, "Group name cannot be an empty string"),
    Code.CONSUMER_INVALID_GROUP_NAME: (
        400, "Valid priority group name must match A-Z, a-z, 0-9, -_/=)+ and may not exceed 16 characters"),
    Code.STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_NOT_READY: (
        503, "expected last sequence per subject temporarily unavailable"),
    Code.STREAM_WRONG_LAST_SEQUENCE_CONSTANT: (400, "wrong last sequence"),
    Code.MESSAGE_TTL_INVALID: (400, "invalid per-message TTL"),
    Code.MESSAGE_TTL_DISABLED: (400, "per-message TTL is disabled"),
    Code.STREAM_TOO_MANY_REQUESTS: (429, "too many requests"),
    Code.MESSAGE_INCR_DISABLED: (400, "message counters is disabled"),
    Code.MESSAGE_INCR_MISSING: (400, "message counter increment is missing"),
    Code.MESSAGE_INCR_PAYLOAD: (400, "message counter has payload"),
    Code.MESSAGE_INCR_INVALID: (400, "message counter increment is invalid"),
    Code.MESSAGE_COUNTER_BROKEN: (400, "message counter is broken"),
    Code.MIRROR_WITH_COUNTERS: (400, "stream mirrors can not also calculate counters"),
    Code.ATOMIC_PUBLISH_DISABLED: (400, "atomic publish is disabled"),
    Code.ATOMIC_PUBLISH_MISSING_SEQ: (400, "atomic publish sequence is missing"),
    Code.ATOMIC_PUBLISH_INCOMPLETE_BATCH: (400, "atomic publish batch is incomplete"),
    Code.ATOMIC_PUBLISH_UNSUPPORTED_HEADER_BATCH: (400, "atomic publish unsupported header used: {header}"),
    Code.CONSUMER_PUSH_WITH_PRIORITY_GROUP: (400, "priority groups can not be used with push consumers"),
    Code.ATOMIC_PUBLISH_INVALID_BATCH_ID: (400, "atomic publish batch ID is invalid"),
    Code.STREAM_MIN_LAST_SEQ: (412, "min last sequence"),
    Code.CONSUMER_ACK_POLICY_INVALID: (400, "consumer ack policy invalid"),
    Code.CONSUMER_REPLAY_POLICY_INVALID: (400, "consumer replay policy invalid"),
    Code.CONSUMER_ACK_WAIT_NEGATIVE: (400, "consumer ack wait needs to be positive"),
    Code.CONSUMER_BACK_OFF_NEGATIVE: (400, "consumer backoff needs to be positive"),
    Code.REQUIRED_API_LEVEL: (412, "JetStream minimum api level required"),
    Code.MIRROR_WITH_MSG_SCHEDULES: (400, "stream mirrors can not also schedule messages"),
    Code.SOURCE_WITH_MSG_SCHEDULES: (400, "stream source can not also schedule messages"),
    Code.MESSAGE_SCHEDULES_DISABLED: (400, "message schedules is disabled"),
    Code.MESSAGE_SCHEDULES_PATTERN_INVALID: (400, "message schedules pattern is invalid"),
    Code.MESSAGE_SCHEDULES_TARGET_INVALID: (400, "message schedules target is invalid"),
    Code.MESSAGE_SCHEDULES_TTL_INVALID: (400, "message schedules invalid per-message TTL"),
    Code.MESSAGE_SCHEDULES_ROLLUP_INVALID: (400, "message schedules invalid rollup"),
    Code.STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_INVALID: (
        400, "missing sequence for expected last sequence per subject"),
    Code.STREAM_OFFLINE_REASON: (500, "stream is offline: {err}"),
    Code.CONSUMER_OFFLINE_REASON: (500, "consumer is offline: {err}"),
    Code.CONSUMER_PRIORITY_GROUP_WITH_POLICY_NONE: (
        400, "consumer can not have priority groups when policy is none"),
    Code.CONSUMER_PINNED_TTL_WITHOUT_PRIORITY_POLICY_NONE: (
        400, "PinnedTTL cannot be set when PriorityPolicy is none"),
    Code.MIRROR_WITH_ATOMIC_PUBLISH: (400, "stream mirrors can not also use atomic publishing"),
    Code.ATOMIC_PUBLISH_TOO_LARGE_BATCH: (400, "atomic publish batch is too large: {size}"),
    Code.ATOMIC_PUBLISH_INVALID_BATCH_COMMIT: (400, "atomic publish batch commit is invalid"),
    Code.ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE: (
        400, "atomic publish batch contains duplicate message id"),
    Code.CLUSTER_SERVER_MEMBER_CHANGE_INFLIGHT: (400, "cluster member change is in progress"),
    Code.MESSAGE_SCHEDULES_SOURCE_INVALID: (400, "message schedules source is invalid"),
    Code.CONSUMER_INVALID_RESET: (400, "invalid reset: {err}"),
    Code.BATCH_PUBLISH_DISABLED: (400, "batch publish is disabled"),
    Code.BATCH_PUBLISH_INVALID_PATTERN: (400, "batch publish pattern is invalid"),
    Code.BATCH_PUBLISH_INVALID_BATCH_ID: (400, "batch publish ID is invalid"),
    Code.BATCH_PUBLISH_UNKNOWN_BATCH_ID: (400, "batch publish ID unknown"),
    Code.MIRROR_WITH_BATCH_PUBLISH: (400, "stream mirrors can not also use batch publishing"),
    Code.ATOMIC_PUBLISH_TOO_MANY_INFLIGHT: (429, "atomic publish too many inflight"),
    Code.BATCH_PUBLISH_TOO_MANY_INFLIGHT: (429, "batch publish too many inflight"),
    Code.MESSAGE_SCHEDULES_SCHEDULER_INVALID: (400, "message schedules invalid scheduler"),
    Code.MIRROR_DURABLE_CONSUMER_CFG_INVALID: (400, "stream mirror consumer config is invalid"),
    Code.MIRROR_CONSUMER_REQUIRES_ACK_FC: (400, "stream mirror consumer requires flow control ack policy"),
    Code.SOURCE_DURABLE_CONSUMER_CFG_INVALID: (400, "stream source consumer config is invalid"),
    Code.SOURCE_DURABLE_CONSUMER_DUPLICATE_DETECTED: (400, "duplicate stream source consumer detected"),
    Code.SOURCE_CONSUMER_REQUIRES_ACK_FC: (400, "stream source consumer requires flow control ack policy"),
    Code.CONSUMER_ACK_FC_REQUIRES_PUSH: (400, "flow control ack policy requires a push based consumer"),
    Code.CONSUMER_ACK_FC_REQUIRES_FC: (400, "flow control ack policy requires flow control"),
    Code.CONSUMER_ACK_FC_REQUIRES_MAX_ACK_PENDING: (400, "flow control ack policy requires max ack pending"),
    Code.CONSUMER_ACK_FC_REQUIRES_NO_ACK_WAIT: (400, "flow control ack policy requires unset ack wait"),
    Code.CONSUMER_ACK_FC_REQUIRES_NO_MAX_DELIVER: (400, "flow control ack policy requires unset max deliver"),
    Code.MESSAGE_SCHEDULES_TIME_ZONE_INVALID: (400, "message schedules time zone is invalid"),
    Code.CLUSTER_RESCUE: (400, "JetStream system rescue not applied: {err}"),
    Code.CONSUMER_STREAM_IDENTITY_MISMATCH: (400, "consumer's stream identity does not match: {msg}"),
    Code.STREAM_RECONFIGURE_IN_PROGRESS: (400, "stream reconfiguration already in progress"),
    Code.MESSAGE_SOURCE_HDR_NOT_ALLOWED: (400, "message stream source header is not allowed"),
}


class ApiError(Exception):
    """An error for the client. `fields` fill the words in braces: ApiError(Code.INVALID_JSON, err="unexpected EOF")."""

    def __init__(self, err_code: Code, **fields: object) -> None:
        self.code, text = TEXTS[err_code]
        self.err_code = err_code
        self.description = text.format(**fields) if fields else text
        super().__init__(self.description)

    def to_json(self) -> dict[str, object]:
        """The "error" object of an answer."""
        return {"code": self.code, "err_code": int(self.err_code), "description": self.description}
