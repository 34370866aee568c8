// Answers as a llama-server does, as far as llamaherd asks one, and goes wrong in one way:
//
//   none                all is well
//   never-ready         /health says 503 for ever: "Loading model"
//   rubbish             every answer is 200 and no JSON
//   rubbish-completion  the same of completions alone
//   crash               all is well for five seconds, then it aborts
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

static const std::string how = MISBEHAVIOUR;

static std::string argument(int argc, char ** argv, const char * name, const char * otherwise) {
    for (int i = 1; i + 1 < argc; i++) {
        if (std::strcmp(argv[i], name) == 0) {
            return argv[i + 1];
        }
    }
    return otherwise;
}

static std::string request_of(int client) {
    std::string text;
    char buffer[4096];
    size_t end;
    while ((end = text.find("\r\n\r\n")) == std::string::npos) {
        const ssize_t got = read(client, buffer, sizeof buffer);
        if (got <= 0) {
            return text;
        }
        text.append(buffer, got);
    }
    const size_t at = text.find("Content-Length: ");
    const size_t length = at < end ? std::strtoul(text.c_str() + at + 16, nullptr, 10) : 0;
    while (text.size() < end + 4 + length) {
        const ssize_t got = read(client, buffer, sizeof buffer);
        if (got <= 0) {
            break;
        }
        text.append(buffer, got);
    }
    return text;
}

static std::string body_for(const std::string & request, const std::string & alias,
                            const std::string & context, const std::string & slots) {
    if (request.find(" /v1/models ") != std::string::npos) {
        return "{\"data\":[{\"id\":\"" + alias + "\",\"meta\":{\"n_ctx\":" + context + "}}]}";
    }
    if (request.find(" /props ") != std::string::npos) {
        return "{\"default_generation_settings\":{\"n_ctx\":" + context + "},\"total_slots\":" +
               slots + ",\"model_alias\":\"" + alias + "\",\"build_info\":\"b" BUILD_NUMBER "-" BUILD_COMMIT "\"}";
    }
    if (request.find("/completions ") != std::string::npos) {
        return "{\"choices\":[{\"text\":\"a\",\"message\":{\"role\":\"assistant\",\"content\":\"a\"}}],"
               "\"usage\":{\"completion_tokens\":1,\"prompt_tokens\":1}}";
    }
    return "{\"status\":\"ok\"}";
}

int main(int argc, char ** argv) {
    if (argc > 1 && std::strcmp(argv[1], "--version") == 0) {
        std::fprintf(stderr, "version: 0 (build %s, commit %s)\n", BUILD_NUMBER, BUILD_COMMIT);
        return 0;
    }
    if (argc > 1 && std::strcmp(argv[1], "--help") == 0) {
        std::puts("--alias --api-key-file --cache-ram --cors-origins --ctx-size --host\n"
                  "--kv-unified-per-slot --load-mode --model --offline --parallel --port");
        return 0;
    }
    const std::string alias = argument(argc, argv, "--alias", "");
    const std::string slots = argument(argc, argv, "--parallel", "1");
    const long shared = std::strtol(argument(argc, argv, "--ctx-size", "0").c_str(), nullptr, 10);
    const long sessions = std::max(1L, std::strtol(slots.c_str(), nullptr, 10));
    const std::string context = std::to_string(shared / sessions);

    const int server = socket(AF_INET, SOCK_STREAM, 0);
    const int yes = 1;
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_port = htons(std::atoi(argument(argc, argv, "--port", "8080").c_str()));
    inet_pton(AF_INET, argument(argc, argv, "--host", "127.0.0.1").c_str(), &at.sin_addr);
    if (bind(server, reinterpret_cast<sockaddr *>(&at), sizeof at) != 0 || listen(server, 16) != 0) {
        std::perror("bind");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    std::fprintf(stderr, "listening, misbehaviour: %s\n", how.c_str());
    if (how == "crash") {
        alarm(5);
        signal(SIGALRM, [](int) { abort(); });
    }
    for (;;) {
        const int client = accept(server, nullptr, nullptr);
        if (client < 0) {
            continue;
        }
        const std::string request = request_of(client);
        std::string status = "200 OK";
        std::string body = body_for(request, alias, context, slots);
        if (how == "never-ready") {
            status = "503 Service Unavailable";
            body = "{\"error\":{\"message\":\"Loading model\",\"code\":503}}";
        }
        if (how == "rubbish" || (how == "rubbish-completion" && request.find("/completions ") != std::string::npos)) {
            body = "<html>It works!</html>";
        }
        const std::string answer = "HTTP/1.1 " + status + "\r\nConnection: close\r\nContent-Length: " +
                                   std::to_string(body.size()) + "\r\n\r\n" + body;
        (void) !write(client, answer.data(), answer.size());
        close(client);
    }
}
