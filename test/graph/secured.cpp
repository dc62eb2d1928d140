// One endpoint of Fast DDS with security on, as rmw_fastrtps makes it for an enclave of a keystore.
//
//   secured ENCLAVE DOMAIN publish|subscribe TOPIC [SECONDS]
//
// Ends with 0 when a message was handed over, 1 when the endpoint is denied, 2 when the participant
// is refused, and 3 when no peer was matched in time.
#include <chrono>
#include <cstring>
#include <iostream>
#include <string>
#include <thread>

#include <fastdds/dds/domain/DomainParticipant.hpp>
#include <fastdds/dds/domain/DomainParticipantFactory.hpp>
#include <fastdds/dds/publisher/DataWriter.hpp>
#include <fastdds/dds/publisher/Publisher.hpp>
#include <fastdds/dds/subscriber/DataReader.hpp>
#include <fastdds/dds/subscriber/SampleInfo.hpp>
#include <fastdds/dds/subscriber/Subscriber.hpp>
#include <fastdds/dds/topic/TopicDataType.hpp>
#include <fastdds/dds/topic/TypeSupport.hpp>

using namespace eprosima::fastdds;
using namespace eprosima::fastdds::dds;
using eprosima::fastdds::rtps::InstanceHandle_t;
using eprosima::fastdds::rtps::SerializedPayload_t;

// A message of eight bytes.
class Eight : public TopicDataType {
public:
    Eight() {
        set_name("Eight");
        max_serialized_type_size = 8;
        is_compute_key_provided = false;
    }
    bool serialize(const void* data, SerializedPayload_t& payload, DataRepresentationId_t) override {
        std::memcpy(payload.data, data, 8);
        payload.length = 8;
        return true;
    }
    bool deserialize(SerializedPayload_t& payload, void* data) override {
        std::memcpy(data, payload.data, 8);
        return payload.length == 8;
    }
    uint32_t calculate_serialized_size(const void*, DataRepresentationId_t) override { return 8; }
    void* create_data() override { return new char[8]; }
    void delete_data(void* data) override { delete[] static_cast<char*>(data); }
    bool compute_key(SerializedPayload_t&, InstanceHandle_t&, bool) override { return false; }
    bool compute_key(const void*, InstanceHandle_t&, bool) override { return false; }
};

static DomainParticipantQos secured(const std::string& enclave) {
    DomainParticipantQos qos;
    auto& given = qos.properties().properties();
    auto file = [&](const char* name) { return "file://" + enclave + "/" + name; };
    const std::string identity = "dds.sec.auth.builtin.PKI-DH.";
    const std::string access = "dds.sec.access.builtin.Access-Permissions.";
    given.emplace_back("dds.sec.auth.plugin", "builtin.PKI-DH");
    given.emplace_back(identity + "identity_ca", file("identity_ca.cert.pem"));
    given.emplace_back(identity + "identity_certificate", file("cert.pem"));
    given.emplace_back(identity + "private_key", file("key.pem"));
    given.emplace_back("dds.sec.crypto.plugin", "builtin.AES-GCM-GMAC");
    given.emplace_back("dds.sec.access.plugin", "builtin.Access-Permissions");
    given.emplace_back(access + "permissions_ca", file("permissions_ca.cert.pem"));
    given.emplace_back(access + "governance", file("governance.p7s"));
    given.emplace_back(access + "permissions", file("permissions.p7s"));
    return qos;
}

static bool until(double seconds, bool (*done)(void*), void* what) {
    auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (!done(what)) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return true;
}

// Publish a message on a topic, or take one; returns the process's exit status.
static int act(DomainParticipant* participant, const std::string& action, const std::string& name,
               double patience_s) {
    TypeSupport type(new Eight);
    type.register_type(participant);
    auto* topic = participant->create_topic(name, "Eight", TOPIC_QOS_DEFAULT);
    char message[8] = "message";
    if (action == "publish") {
        DataWriterQos qos;
        qos.reliability().kind = RELIABLE_RELIABILITY_QOS;
        qos.durability().kind = TRANSIENT_LOCAL_DURABILITY_QOS;
        auto* publisher = participant->create_publisher(PUBLISHER_QOS_DEFAULT);
        auto* writer = publisher->create_datawriter(topic, qos);
        if (!writer) return 1;
        writer->write(message);
        auto matched = [](void* what) {
            PublicationMatchedStatus status;
            static_cast<DataWriter*>(what)->get_publication_matched_status(status);
            return status.total_count > 0;
        };
        if (!until(patience_s, matched, writer)) return 3;
        writer->wait_for_acknowledgments(Duration_t(5, 0));
        return 0;
    }
    DataReaderQos qos;
    qos.reliability().kind = RELIABLE_RELIABILITY_QOS;
    qos.durability().kind = TRANSIENT_LOCAL_DURABILITY_QOS;
    auto* subscriber = participant->create_subscriber(SUBSCRIBER_QOS_DEFAULT);
    auto* reader = subscriber->create_datareader(topic, qos);
    if (!reader) return 1;
    auto taken = [](void* what) {
        char data[8];
        SampleInfo info;
        return static_cast<DataReader*>(what)->take_next_sample(data, &info) == RETCODE_OK;
    };
    return until(patience_s, taken, reader) ? 0 : 3;
}

int main(int, char** arguments) {
    const std::string enclave = arguments[1];
    const double patience_s = arguments[5] ? std::stod(arguments[5]) : 20.0;
    auto* factory = DomainParticipantFactory::get_instance();
    auto* participant = factory->create_participant(
        std::stoul(arguments[2]), enclave == "none" ? DomainParticipantQos() : secured(enclave));
    if (!participant) return 2;
    const int status = act(participant, arguments[3], arguments[4], patience_s);
    // Its threads must have ended before OpenSSL is cleaned up, as the process exits.
    participant->delete_contained_entities();
    factory->delete_participant(participant);
    return status;
}
