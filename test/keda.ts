// Types for KEDA's two kinds (keda.sh/v1alpha1), with only the fields that k8s/keda/ uses. Any other field is a type error:
// look it up in KEDA's documentation, then add it here.
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
