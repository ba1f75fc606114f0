// The part of KEDA's two kinds (keda.sh/v1alpha1) that is used here, as types: a field that is not here is an error, so
// that one is looked up in KEDA's documentation before it comes in.
import type { HorizontalPodAutoscalerBehavior } from "kubernetes-types/autoscaling/v2";
import type { ObjectMeta } from "kubernetes-types/meta/v1";

export interface ScaledObject {
  apiVersion: "keda.sh/v1alpha1";
  kind: "ScaledObject";
  metadata: ObjectMeta;
  spec: {
    scaleTargetRef: { name: string };
    minReplicaCount: number;
    maxReplicaCount: number;
    pollingInterval: number;
    advanced: { horizontalPodAutoscalerConfig: { behavior: HorizontalPodAutoscalerBehavior } };
    triggers: {
      type: "rabbitmq";
      metadata: { protocol: "http" | "amqp"; host: string; queueName: string; mode: "QueueLength"; value: string };
      authenticationRef: { name: string };
    }[];
  };
}

export interface TriggerAuthentication {
  apiVersion: "keda.sh/v1alpha1";
  kind: "TriggerAuthentication";
  metadata: ObjectMeta;
  spec: { secretTargetRef: { parameter: "username" | "password"; name: string; key: string }[] };
}
