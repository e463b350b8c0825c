# Alarms on what no key policy can stop: its own change, and the ways around it.
#
# A key policy decides who gets the model's key; whoever may call PutKeyPolicy
# decides what it says. So every such call is an event that somebody reads. The
# calls are in CloudTrail's management events, which EventBridge delivers without
# a trail of its own.

variable "model_key_arn" {
  description = "ARN of the KMS key that wraps the models' data keys; `ephemeralml kms policy` writes its policy."
  type        = string

  validation {
    condition     = length(regexall("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.model_key_arn)) == 1
    error_message = "The ARN of one KMS key is needed, not of an alias."
  }
}

variable "alarm_topic_arn" {
  description = "ARN of the SNS topic that people read; its topic policy has to let events.amazonaws.com publish."
  type        = string

  validation {
    condition     = length(regexall("^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+$", var.alarm_topic_arn)) == 1
    error_message = "The ARN of an SNS topic is needed."
  }
}

variable "alarm_name_prefix" {
  description = "Beginning of the rules' names; the deployment's id."
  type        = string
  default     = "ephemeralml"

  validation {
    condition     = length(regexall("^[a-z][a-z0-9-]{0,31}$", var.alarm_name_prefix)) == 1
    error_message = "At most 32 lower-case letters, digits and hyphens."
  }
}

locals {
  model_key_id = element(split("/", var.model_key_arn), 1)

  # The gate changes, opens beside itself, or closes.
  watched_key_calls = [
    "PutKeyPolicy",
    "CreateGrant",
    "ReplicateKey",
    "UpdatePrimaryRegion",
    "ImportKeyMaterial",
    "ReEncrypt",
    "DisableKey",
    "ScheduleKeyDeletion",
    "DisableKeyRotation",
  ]
}

# Requests name the key by id or ARN; `resources` has its ARN where KMS knew it.
resource "aws_cloudwatch_event_rule" "key_policy" {
  name        = "${var.alarm_name_prefix}-model-key-changed"
  description = "Somebody changed the model key's policy, granted, replicated, re-encrypted or disabled it."

  # ReEncrypt counts as a read, which rules do not see otherwise.
  state = "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS"

  event_pattern = jsonencode({
    source        = ["aws.kms"]
    "detail-type" = ["AWS API Call via CloudTrail"]
    detail = {
      eventSource = ["kms.amazonaws.com"]
      eventName   = local.watched_key_calls
      "$or" = [
        { requestParameters = { keyId = [var.model_key_arn, local.model_key_id] } },
        { requestParameters = { sourceKeyId = [var.model_key_arn, local.model_key_id] } },
        { resources = { ARN = [var.model_key_arn] } },
      ]
    }
  })
}

resource "aws_cloudwatch_event_target" "key_policy" {
  rule      = aws_cloudwatch_event_rule.key_policy.name
  target_id = "people"
  arn       = var.alarm_topic_arn

  input_transformer {
    input_paths = {
      call    = "$.detail.eventName"
      who     = "$.detail.userIdentity.arn"
      when    = "$.detail.eventTime"
      request = "$.detail.requestID"
    }
    input_template = "\"<call> on the model key ${var.model_key_arn} by <who> at <when> (request <request>). If nobody meant it: kms policy lint, then disable the key.\""
  }
}

output "key_alarm_rule" {
  description = "Name of the rule that watches the model key."
  value       = aws_cloudwatch_event_rule.key_policy.name
}
