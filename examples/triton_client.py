"""Ask a Triton server for the entities of a photo. The photo goes through shared memory, the answer over gRPC.

esam-rt export-triton tiny --out models/; tritonserver --model-repository models/
python examples/triton_client.py photo.jpg labels.png localhost:8001
"""

import sys

import cv2
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import shared_memory

REGION = "photo"


def main(photo: str, out: str, url: str) -> None:
    """Segment `photo` on the server at `url`, and write its label map as a 16-bit PNG."""
    image = cv2.cvtColor(cv2.imread(photo), cv2.COLOR_BGR2RGB)
    asked = InferInput("image", image.shape, "UINT8")
    region = shared_memory.create_shared_memory_region(REGION, f"/{REGION}", image.nbytes)
    with InferenceServerClient(url) as client:
        try:
            shared_memory.set_shared_memory_region(region, [image])
            client.register_system_shared_memory(REGION, f"/{REGION}", image.nbytes)
            asked.set_shared_memory(REGION, image.nbytes)
            outputs = [InferRequestedOutput(name) for name in ("labels", "score", "box_xyxy")]
            answer = client.infer("esam_tiny", [asked], outputs=outputs)
        finally:
            client.unregister_system_shared_memory(REGION)
            shared_memory.destroy_shared_memory_region(region)
    cv2.imwrite(out, answer.as_numpy("labels"))
    for i, (score, box) in enumerate(zip(answer.as_numpy("score"), answer.as_numpy("box_xyxy"), strict=True), 1):
        print(f"label {i}: score {score:.2f}, box {box.tolist()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
