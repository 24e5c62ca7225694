"""Amazon SNS over HTTPS."""

import re

from protocol.naming import Header, Json
from protocol.providers.provider import MEMORY, READ, Provider, Sample, Shape, told
from protocol.schemes.sns import Sns

TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")

PROVIDER = Provider(
    title="Amazon SNS",
    event_type="x-amz-sns-message-type",
    # The body's, for that one is signed: what was sent before must not come again as another delivery.
    delivery_id=None,
    event_types=(Json("Type"),),
    delivery_ids=(Json("MessageId"), Header("x-amz-sns-message-id")),
    scheme=Sns(),
    patience_seconds=15,
    setup="The topic → Create subscription: HTTPS, the URL, raw message delivery off. It is confirmed here by itself, "
    "when the signature, the topic and the host of the confirmation's URL are right.",
    credential="the topic's ARN: a message of any other topic is refused, for anybody can have one",
    shape=Shape(TOPIC, "a topic's ARN, such as arn:aws:sns:eu-central-1:123456789012:lighthouse"),
    duplicates="a retry bears the same MessageId in its body, where it is signed",
    facts=(
        *told(
            "https://github.com/aws/aws-js-sns-message-validator/blob/master/index.js",
            READ,
            signature="RSA in the body, SHA-1 or SHA-256, over its fields by name; the certificate only over "
            "https from "
            "sns.<region>.amazonaws.com or .com.cn, a .pem file. The ARN is our own demand",
        ),
        *told(
            "https://docs.aws.amazon.com/sns/latest/dg/sns-http-https-endpoint-as-subscriber.html",
            READ,
            names="x-amz-sns-message-type; MessageId in the body, and as x-amz-sns-message-id",
            handshake="a message of type SubscriptionConfirmation, whose SubscribeURL is fetched; not in the request",
            retries="3 by default, 20 s apart; a policy of 3,600 s at most",
        ),
        *told(
            "https://docs.aws.amazon.com/sns/latest/dg/sns-message-delivery-retries.html",
            MEMORY,
            success="2xx; a 4xx but 429 is final",
            patience="15 s",
        ),
    ),
    sample=Sample(
        {
            "Type": "Notification",
            "MessageId": "{delivery}",
            "TopicArn": "arn:aws:sns:eu-central-1:123456789012:lighthouse",
            "Subject": "lamp",
            "Message": "The lamp is lit.",
            "Timestamp": "{iso}",
            "SignatureVersion": "2",
            "Signature": "",
            "SigningCertURL": "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-sample.pem",
        },
        {"x-amz-sns-message-type": "Notification", "x-amz-sns-message-id": "{delivery}"},
        credential="arn:aws:sns:eu-central-1:123456789012:lighthouse",
        key="rsa",
        content_type="text/plain; charset=UTF-8",
    ),
)
